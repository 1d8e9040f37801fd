"""A training step on paper: bytes and exchanges of each GPU, from one to a thousand of them.

Arithmetic alone. The bytes of DDP, of FSDP and of a vocabulary in slices are what `python -m benchmarks.scaling` counts
in processes of this machine, and must equal them; but that the paper has FSDP gather embedding and head twice for each
part, as if they were layers, which is counted once. The seconds follow from a handful of rates, named below with their
source, and have been compared with nothing: no cluster was at hand.

The assumptions: completions are all of one length, so that nobody waits for a straggler. Sampling is bound by reading
weights and keys and values, learning by matrix products at the rate of a large one, every other kernel is free, and so
is the prompts' forward before sampling (one forward of 0.2 s for 7B, 1.5 s for 72B, if every completion had its own).
Whether everything fits the memory is not asked. `rlif train` itself has no tensor parallelism: its kernels do. An
exchange goes around a ring, and nothing is computed meanwhile: what real trainers hide behind computation counts in
full. Each replica of the model is a node, its weights and optimizer sharded over the node's GPUs (FSDP within a node,
copies across nodes), or its matrices split (tensor parallelism, the vocabulary of the head with them).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

# What a rank shares about each token of its slice of the vocabulary: 11 float64 (`rlif_kernels.backends.sharded`).
STATISTICS_BYTES = 11 * 8
# Before that, once a call, the number of its columns: one int64.
SIZES_BYTES = 8


@dataclass(frozen=True)
class Rates:
    """Bytes and operations a second, each with where it is from."""

    memory: float = 4.3e12
    """Bytes read or written of an H200's memory: a copy, measured."""
    products: float = 770e12
    """Operations of bfloat16 matrix products on an H200: 8192 x 8192 x 8192, measured."""
    node: float = 450e9
    """Bytes that a GPU sends within a node: NVLink 4, 900 GB/s both ways together (NVIDIA's H200 data sheet)."""
    network: float = 50e9
    """Bytes that a GPU sends to other nodes: one 400 Gbit/s InfiniBand port for each (NVIDIA's DGX H200 data sheet)."""
    node_latency: float = 1e-6
    """Seconds that each hop of an exchange within a node takes besides its bytes: assumed."""
    network_latency: float = 5e-6
    """Seconds that each hop between nodes takes besides its bytes: assumed."""


@dataclass(frozen=True)
class Model:
    """A transformer in bfloat16 whose embedding and head are two matrices: what its configuration file says."""

    name: str
    parameters: float
    layers: int
    hidden_size: int
    vocab_size: int
    kv_size: int
    """Keys of one token and layer: heads times their size. The values are as many."""
    tensor_parallel: bool = False
    """Whether a node splits the matrices, instead of sharding what it stores."""


@dataclass(frozen=True)
class Step:
    """What one GPU has to do in a step."""

    completions: int = 32
    """For each GPU, so that the step grows with the cluster."""
    num_generations: int = 8
    """Completions of a prompt, which go forward and backward together, a group at a time."""
    prompt_length: int = 256
    completion_length: int = 1024


MODELS = (
    Model("Qwen2.5-7B", 7.62e9, 28, 3584, 152064, 512),
    Model("Qwen2.5-72B", 72.7e9, 80, 8192, 152064, 1024, tensor_parallel=True),
)
GPUS_PER_NODE = 8
NUM_GPUS = (1, 8, 64, 256, 1024)
ITEMSIZE = 2  # bfloat16


def all_reduce_bytes(payload: float, ranks: int) -> float:
    """What each rank sends around a ring for the sum of `payload` bytes to be with all: 2 (n-1)/n of them."""
    return 2 * (ranks - 1) / ranks * payload


def all_gather_bytes(own: float, ranks: int) -> float:
    """What each rank sends around a ring for its `own` bytes, and the others' likewise, to be with all."""
    return (ranks - 1) * own


def statistics_payload(tokens: int) -> int:
    """Bytes that a rank brings so that the statistics of N tokens over a sharded vocabulary are known to all."""
    return SIZES_BYTES + STATISTICS_BYTES * tokens


def logits_payload(tokens: int, vocab_size: int, ranks: int, itemsize: int) -> int:
    """Bytes that a rank brings where the logits themselves are gathered; the slices are of equal size."""
    return tokens * (vocab_size // ranks) * itemsize


def hidden_payload(tokens: int, hidden_size: int, itemsize: int) -> int:
    """Bytes of the gradient of the hidden states, which each rank's columns add to: one all-reduce in the backward."""
    return tokens * hidden_size * itemsize


def data_parallel_payload(parameters: int, itemsize: int) -> int:
    """Bytes that each process brings to a step's gradient under DDP, however many tokens and parts it has."""
    return parameters * itemsize


def sharded_payload(in_layers: int, elsewhere: int, ranks: int, itemsize: int) -> tuple[int, int]:
    """Bytes that each process brings to one forward and backward under FSDP: to the gathers, to the sums of gradients.

    Layers are given back after their forward and gathered again for their backward, embedding and head are kept. Of the
    gradients each process brings the whole, and keeps a share of their sum.
    """
    return (2 * in_layers + elsewhere) * itemsize // ranks, (in_layers + elsewhere) * itemsize


def seconds_of_step(model: Model, num_gpus: int, step: Step, rates: Rates) -> dict[str, float]:
    """Seconds of each part of a step, and bytes that each GPU sends in it.

    A single GPU is the step without any exchange.
    """
    in_node = min(num_gpus, GPUS_PER_NODE)
    nodes = num_gpus // in_node
    split = in_node if model.tensor_parallel else 1
    completions = step.completions * split  # of one replica
    scored = completions * step.completion_length
    tokens = scored + completions * step.prompt_length
    weights = model.parameters * ITEMSIZE

    kv_bytes = 2 * model.layers * model.kv_size * ITEMSIZE * (step.prompt_length + step.completion_length / 2)
    by_bytes = (weights + completions * kv_bytes) / split / rates.memory
    by_products = 2 * model.parameters * completions / split / rates.products
    sampling = step.completion_length * max(by_bytes, by_products)

    head = 2 * model.vocab_size * model.hidden_size * scored  # operations of one product
    layers = 2 * (model.parameters - 2 * model.vocab_size * model.hidden_size) * tokens
    # Two for the backward's gradients and two for the logits or activations, which are computed twice.
    learning = 4 * (head + layers) / split / rates.products

    parts = completions // step.num_generations
    sent = dict.fromkeys(("weights", "gradients", "layers", "statistics", "gathered logits"), 0.0)
    hops = 0
    if model.tensor_parallel:
        hidden = hidden_payload(tokens, model.hidden_size, ITEMSIZE)
        hidden_scored = hidden_payload(scored, model.hidden_size, ITEMSIZE)
        # Two sums a layer, of attention and of the perceptron: at every token that is sampled, then in the forward, the
        # forward again, and the backward; and one at the head.
        payload = 2 * model.layers * (hidden_scored + 3 * hidden) + hidden_scored
        sent["layers"] = all_reduce_bytes(payload, in_node)
        sent["statistics"] = all_gather_bytes(statistics_payload(scored), in_node)
        sent["gathered logits"] = all_gather_bytes(logits_payload(scored, model.vocab_size, in_node, ITEMSIZE), in_node)
        hops = 2 * model.layers * (step.completion_length + 3 * parts) * 2 * (in_node - 1)
        hops += parts * 4 * (in_node - 1)  # the head's: sizes, statistics, and the sum
    elif in_node > 1:
        # Gathered for the forward of each part and for its backward, which repeats the forward layer by layer; once
        # for sampling. The gradients of all parts are added up before they are scattered.
        gathers = 2 * parts + 1
        sent["weights"] = gathers * all_gather_bytes(weights / in_node, in_node)
        sent["gradients"] = (in_node - 1) / in_node * weights
        hops = (gathers + 1) * model.layers * (in_node - 1)
    within = sum(size for name, size in sent.items() if name != "gathered logits")
    across = all_reduce_bytes(weights / in_node, nodes)  # each GPU has the gradients of its share
    seconds = {
        "sampling": sampling,
        "learning": learning,
        "exchange within nodes": within / rates.node + hops * rates.node_latency,
        "exchange between nodes": across / rates.network + 2 * (nodes - 1) * model.layers * rates.network_latency,
    }
    total = sum(seconds.values())
    return {
        **seconds,
        "step": total,
        "tokens per second": num_gpus * step.completions * step.completion_length / total,
        "bytes within nodes": within,
        "bytes between nodes": across,
        # Part of the exchange within nodes, and what would be in its place.
        "statistics": sent["statistics"] / rates.node,
        "gathered logits instead": sent["gathered logits"] / rates.node,
        # What a reward with a forward of its own adds to a step.
        "second forward instead": (head + layers) / split / rates.products,
    }


def paper(step: Step | None = None, rates: Rates | None = None) -> dict[str, object]:
    """The whole table, with what it was computed from."""
    step, rates = step or Step(), rates or Rates()
    rows = [
        {"model": model.name, "gpus": num_gpus, **seconds_of_step(model, num_gpus, step, rates)}
        for model in MODELS
        for num_gpus in NUM_GPUS
        # A model split over a node is there from the first node on.
        if num_gpus >= (GPUS_PER_NODE if model.tensor_parallel else 1)
    ]
    return {"rates": asdict(rates), "step": asdict(step), "models": [asdict(model) for model in MODELS], "rows": rows}
