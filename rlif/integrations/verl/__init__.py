"""rlif inside verl 0.9.1: its log-probabilities, entropies and fused heads through our kernels, and Intuitor.

`patch()` replaces verl's functions in this process and returns what it replaced; `unpatch()` puts verl's own back. A
training run has many processes, and verl itself patches each of them if its configuration names the module to import
(`intuitor.yaml` does):

    actor_rollout_ref.model.external_lib=rlif.integrations.verl.autopatch algorithm.adv_estimator=intuitor

Nothing here imports verl before it is asked to.
"""

from rlif.integrations.verl.patching import PatchReport, patch, unpatch

__all__ = ["PatchReport", "patch", "unpatch"]
