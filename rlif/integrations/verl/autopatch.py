"""Importing this module patches verl: the value of `actor_rollout_ref.model.external_lib`.

verl imports that module in the trainer and in every worker when it reads the model's configuration, which is before it
builds an engine. `VERL_USE_EXTERNAL_MODULES=rlif.integrations.verl.autopatch` does the same without a configuration.
"""

from rlif.integrations.verl.patching import patch

patch()
