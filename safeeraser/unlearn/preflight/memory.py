"""How much memory each process needs, part by part, from shapes alone.

The memory that a process *holds* follows from the number of parameters and from how the engine shards them, in the
versions that requirements.txt and pyproject.toml pin. Autograd reports the memory that a forward pass *keeps*, on
tensors that have a shape but no contents. A formula gives the memory for a moment of the backward pass.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from safeeraser.model.states import up_to
from safeeraser.model.vision import look
from safeeraser.model.vlm import logits
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.hooks.ending import Guard
from safeeraser.unlearn.objective.divergence import CHUNK
from safeeraser.unlearn.objective.losses import LOSSES
from safeeraser.unlearn.objective.method import Method
from safeeraser.unlearn.preflight.computed import Computed

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes per parameter: 4 bits, 1 byte per 64, 1 float32 per 256 of the bytes
# DeepSpeed's defaults, in parameters: stage3_max_live_parameters and reduce_bucket_size.
ZERO3_LIVE = int(1e9)
REDUCE_BUCKET = int(5e8)


@dataclass(frozen=True)
class Part:
    """One part of a process's memory, in bytes: on the device it computes on, and in CPU memory if offloaded."""

    name: str
    device: float = 0
    cpu: float = 0


@dataclass(frozen=True)
class MicroStep:
    """A micro-step of `rows` rows of `length` tokens, each with a picture. `terms` says how many positions each term of
    `method` reads.

    `picture` has the model's inputs for one picture; empty: the rows are text alone.
    """

    method: Method
    rows: int
    length: int
    terms: dict[str, int]
    picture: Mapping[str, Tensor]


@dataclass(frozen=True)
class Setup:
    """Everything that decides how a model is held and run. `dtype` is the dtype of the frozen weights."""

    settings: Settings
    engine: Engine
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """Bytes per trained parameter, gradient element and logit. DeepSpeed casts the entire model to `dtype`."""
        return self.dtype.itemsize if self.engine.deepspeed else 4

    @property
    def trained_dtype(self) -> torch.dtype:
        """The dtype of trained parameters in a forward pass: FSDP casts them as it gathers them, DeepSpeed at once."""
        return self.dtype if self.engine.deepspeed or self.engine.name == "fsdp" else torch.float32


def memory(model: nn.Module, setup: Setup, *steps: MicroStep) -> list[Part]:
    """The parts of one process's memory at the peak of `steps`, when all that a run comes to hold is there.

    The model is run for one of `steps` after another, so the one that needs the most decides. The sum is a slight upper
    bound: DeepSpeed's bucket appears only with the first gradients. Attention is SDPA with a mask, or eager; flash
    attention takes a little less. Dropout is counted as on GPUs, where it keeps one byte per element; on CPUs it keeps
    as many bytes as an element has.

    Args:
        model: on the meta device; `requires_grad` marks the trained parameters. The model is of no use afterwards.
    """
    parts = held(model, setup)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.forward = lambda x, p=module.p: torch.native_dropout(x, p, True)[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # the meta device has other operations than a real one
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(setup.trained_dtype)
        before_sharing = kept = [kept_bytes(model, setup, step) for step in steps]
        if setup.settings.gradient_checkpointing:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            kept = [kept_bytes(model, setup, step) for step in steps]
    text = model.config.get_text_config()
    peaks = [
        (size, _moment(setup, step, text, spared=before - size))
        for step, before, size in zip(steps, before_sharing, kept, strict=True)
    ]
    kept_most, moment = max(peaks, key=sum)
    return [
        *parts,
        Part("activations kept for the backward pass", kept_most),
        Part("losses, or a layer at work", moment),
    ]


def _moment(setup: Setup, step: MicroStep, text: Any, spared: int) -> float:
    """Bytes that exist only for a moment of a micro-step's backward pass: its losses, or a layer at work.

    Args:
        text: the language model's configuration.
        spared: bytes that gradient checkpointing does not keep.
    """
    settings, terms = setup.settings, step.method.terms
    # Each logit has a gradient, and a counterpart if the loss compares it. Two chunks of logits are in float32.
    sizes = {  # numbers per position that a term reads: logits, or the states of its layers
        name: sum(text.vocab_size if layer is None else text.hidden_size for layer in term.reads)
        for name, term in terms.items()
    }
    reads = {name: step.terms[name] * size * setup.width for name, size in sizes.items()}
    losses = sum(LOSSES[term.loss].copies * reads[name] for name, term in terms.items())
    losses += 2 * CHUNK * text.vocab_size * 4
    works_in = setup.trained_dtype if settings.LoRA.use_dora else setup.dtype  # DoRA's inputs are cast to the adapter's
    layer = 3 * step.rows * step.length * text.intermediate_size * works_in.itemsize  # its widest gradients
    if settings.quantization == "nf4":
        layer += text.hidden_size * text.intermediate_size * setup.dtype.itemsize  # a dequantized weight
    top = step.method.top
    layer += spared / (text.num_hidden_layers if top is None else top + 1)  # recomputed one layer at a time
    # While the reference runs, memory holds the outputs to compare it with, and a layer at work on its rows alone.
    compared = (
        sum(reads.values()) + reads[name] + layer * len(term.views) / len(step.method.views)
        for name, term in terms.items()
        if LOSSES[term.loss].needs_reference
    )
    return max(losses, layer, *compared)  # when a layer is at work, the losses are done


def held(model: nn.Module, setup: Setup) -> list[Part]:
    """Weights, gradients and optimizer state, as the engine shards them.

    Bytes per trained parameter, divided by the number of processes where the engine shards:

    |  | weight | gradient | bucket | optimizer |
    |---|---|---|---|---|
    | single, ddp | 4 | 4 | 4 under ddp | Adam's moments 8 |
    | fsdp | 4 | 4 | | 8 |
    | ZeRO, bfloat16 | 2 | 4 | DeepSpeed's own | 8, master in float32 4; in CPU memory also gradient 4, cast 2 |

    ZeRO-1, and ZeRO-2 with its optimizer in CPU memory, add gradients up in the model's dtype.
    """
    settings, engine, width = setup.settings, setup.engine, setup.width
    fsdp = engine.name == "fsdp"
    weights, layers = dict(model.named_parameters()), settings.family.in_layers
    trained = sum(weight.numel() for weight in weights.values() if weight.requires_grad)
    frozen = _frozen(model, setup)
    everything = sum(weight.numel() for weight in weights.values())
    bucket = REDUCE_BUCKET if engine.deepspeed else trained if engine.name == "ddp" else 0
    narrow = engine.name == "zero1" or (engine.name == "zero2" and engine.offload_optimizer)
    moved = engine.offload_optimizer or (fsdp and engine.offload_weights)  # FSDP offloads all that it shards
    copies = 2 if Guard(settings.stop, settings.method).active else 0
    away, averaged = bool(settings.moved_terms), bool(settings.step.averaged)
    # Each process reads the entire model before FSDP shards it. Weights stored in the requested dtype are mapped from
    # their files, which all processes share. Other weights, such as float16 for bfloat16, are copied.
    read = frozen + trained * width if fsdp else 0
    second = everything if settings.adapter is None and settings.method.needs_reference else 0
    lora = sum(weight.numel() for name, weight in weights.items() if ".lora_" in name and layers(name))
    parts = (  # name, bytes, whether sharded, whether in CPU memory
        ("frozen weights", frozen, engine.shards_weights, engine.offload_weights),
        ("trained weights", trained * width, engine.shards_weights, engine.offload_weights),
        ("weights as they are read", read, False, True),
        ("the untouched model", second * setup.dtype.itemsize, False, False),
        ("weights gathered for the layers at work", _gathered(model, setup) * setup.dtype.itemsize, False, False),
        ("gradients", trained * (width if narrow else 4), engine.shards_gradients, moved and engine.shards_gradients),
        ("gradient bucket", bucket * width, False, False),
        ("gradient mask", lora if settings.mask else 0, False, False),
        ("optimizer state", trained * _state(engine, width), engine.shards_optimizer, moved),
        ("weights before they are moved", away * trained * width, False, False),
        ("gradient at the moved weights", away * trained * 4, False, False),
        ("mean of the last weights", averaged * trained * 4, engine.shards_optimizer, True),
        ("last good weights, and those before", copies * trained * 4, engine.shards_optimizer, True),
    )
    return [
        Part(name, **{"cpu" if off else "device": size / (engine.processes if sharded else 1)})
        for name, size, sharded, off in parts
        if size
    ]


def _frozen(model: nn.Module, setup: Setup) -> float:
    """Bytes of the weights that are not trained. Under `nf4` the language model's linear layers are in four bits."""
    nf4, layers = setup.settings.quantization == "nf4", setup.settings.family.in_layers
    return sum(
        weight.numel() * (NF4 if nf4 and layers(name) and weight.dim() == 2 else weight.itemsize)
        for name, weight in model.named_parameters()
        if not weight.requires_grad
    )


def _gathered(model: nn.Module, setup: Setup) -> int:
    """The parameters that each process has in full while layers work, under an engine that shards weights.

    ZeRO-3 keeps parameters gathered that it will soon need again, up to its bound. FSDP keeps everything outside the
    language model's layers, and gathers the next layer while one works.
    """
    everything = sum(weight.numel() for weight in model.parameters())
    if setup.engine.name == "zero3":
        return min(ZERO3_LIVE, everything)
    if setup.engine.name != "fsdp":
        return 0
    layers = setup.settings.family.in_layers
    in_layers = sum(weight.numel() for name, weight in model.named_parameters() if layers(name))
    return everything - in_layers + 2 * in_layers // model.config.get_text_config().num_hidden_layers


def _state(engine: Engine, width: int) -> int:
    """Bytes that the optimizer keeps for a trained parameter of this width."""
    zero3, state = engine.name == "zero3", 8
    if engine.deepspeed and (not zero3 or width < 4 or engine.offload_optimizer):
        state += 4  # masters; ZeRO-3 in float32 uses the weights themselves, unless the optimizer is offloaded
    if engine.offload_optimizer:
        state += 4 + (0 if zero3 else width)  # the gradient in float32, and the weights to copy back
    return state


def kept_bytes(model: nn.Module, setup: Setup, step: MicroStep) -> int:
    """Bytes of a micro-step's pictures and of what autograd keeps of its forward pass, without weights and logits.

    Pictures and text are run separately, because a model looks at the token values to join them. The bytes kept for
    pictures grow linearly with their number, so two pictures are enough.
    """

    def pictures(count: int) -> dict[str, Tensor]:
        """The model's inputs for `count` pictures, each as large as the largest."""
        given = {key: torch.cat([each] * count) for key, each in step.picture.items()}
        # In the dtype of the weights, as in a run.
        return {key: each.to(setup.dtype) if each.is_floating_point() else each for key, each in given.items()}

    def text() -> None:
        """Run rows of tokens through the language model, up to the logits or the highest layer that the terms read."""
        ids = torch.ones(step.rows, step.length, dtype=torch.long)
        embeddings, top, terms = model.get_input_embeddings(), step.method.top, step.method.terms
        shown = sum(count for name, count in step.terms.items() if None in terms[name].reads)
        # The embeddings get gradients, as after a trained projector.
        with (
            embeddings.register_forward_hook(lambda *given: given[-1].detach().requires_grad_()),
            nullcontext() if top is None else up_to(model, setup.settings.family, top),
        ):
            logits(model, {"input_ids": ids, "attention_mask": ids}, torch.zeros(shown, dtype=torch.long))

    kept = _kept(model, setup, text)
    if step.picture:
        with Computed():
            one, two = (_kept(model, setup, partial(look, model), pictures(count)) for count in (1, 2))
        kept += one + (step.rows - 1) * (two - one)
    return kept


def _kept(model: nn.Module, setup: Setup, forward: Callable[..., Any], *given: Mapping[str, Tensor]) -> int:
    """Bytes of the inputs `given`, and of the tensors that autograd keeps of `forward` on them, without weights."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    # accelerate autocasts products, except under DeepSpeed.
    casts = setup.dtype is not torch.float32 and not setup.engine.deepspeed
    with (
        torch.autocast("cpu", setup.dtype) if casts else nullcontext(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        forward(*given)
    for each in given:
        for tensor in each.values():
            keep(tensor)
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values())
