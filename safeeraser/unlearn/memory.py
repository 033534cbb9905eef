"""How much memory each process needs, part by part, from shapes alone.

What a process *holds* (weights, gradients, optimizer state) follows from the number of parameters and from how the
engine shares them out, in the versions that requirements.txt and setup.py pin. What a micro-step *makes* is counted: it
is played through, forward and backward, on tensors that have a shape but no contents.
"""

import weakref
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from safeeraser.model import Parts
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.methods import Method
from safeeraser.unlearn.terms import LOSSES, Positions

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a parameter: 4 bits, a byte for 64 of them, a float32 for 256 of those
MOMENTS = 2 * 4  # bytes a trained parameter: Adam's two, in float32
# DeepSpeed's defaults, in parameters: stage3_max_live_parameters and reduce_bucket_size.
ZERO3_LIVE = int(1e9)
REDUCE_BUCKET = int(5e8)


@dataclass(frozen=True)
class Part:
    """One part of a process's memory, in bytes: on the device it computes on, and in CPU memory if moved there."""

    name: str
    device: float = 0
    cpu: float = 0


@dataclass(frozen=True)
class MicroStep:
    """The sizes of a micro-step of `items` items: `rows` rows of `length` tokens, each with a picture.

    `terms` counts the positions that each term reads, and at which the vocabulary head runs.
    """

    items: int
    rows: int
    length: int
    terms: dict[str, int]


@dataclass(frozen=True)
class Setup:
    """What decides how a model is held and run. `dtype` is that of the frozen weights."""

    engine: Engine
    parts: Parts
    dtype: torch.dtype
    quantization: str = "none"
    gradient_checkpointing: bool = False
    keeps_copies: bool = False  # of the adapter, for stop.Guard

    @property
    def autocast(self) -> bool:
        """Whether products are cast as they are made: accelerate does so wherever DeepSpeed does not hold the model."""
        return self.dtype is not torch.float32 and not self.engine.deepspeed

    @property
    def trained_bytes(self) -> int:
        """Bytes that a trained parameter and its gradient take each. DeepSpeed casts the whole model to `dtype`."""
        return self.dtype.itemsize if self.engine.deepspeed else 4

    @property
    def working_dtype(self) -> torch.dtype:
        """The dtype in which a layer sees its trained parameters; FSDP's policy casts them as it gathers them."""
        return self.dtype if self.engine.deepspeed or self.engine.name == "fsdp" else torch.float32


def memory(model: PeftModel, setup: Setup, method: Method, step: MicroStep) -> list[Part]:
    """The parts of one process's memory at the peak of `step`, when all that a run comes to hold is there.

    Their sum is an upper bound by a little: DeepSpeed's bucket appears only when the first gradients do.

    Args:
        model: with its adapter attached, on the meta device; it is of no use afterwards.
    """
    return [*held(model, setup), *made(model, setup, method, step)]


def held(model: PeftModel, setup: Setup) -> list[Part]:
    """Weights, gradients and optimizer state, as the engine shares them out.

    Bytes a trained parameter, of which an engine that shards keeps one in so many on each process:

    |  | weight | gradient | bucket | optimizer |
    |---|---|---|---|---|
    | single, ddp | 4 | 4 | 4 under ddp | Adam's moments 8 |
    | fsdp | 4 | 4 | | 8 |
    | ZeRO, bfloat16 | 2 | 2 | DeepSpeed's own | 8, master in float32 4; in CPU memory also gradient 4, cast 2 |
    """
    engine, width = setup.engine, setup.trained_bytes
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    def part(name: str, size: float, sharded: bool = False, offloaded: bool = False) -> Part:
        size /= engine.processes if sharded else 1
        return Part(name, cpu=size) if offloaded else Part(name, device=size)

    # FSDP's offloading is of all that it shards.
    optimizer_offloaded = engine.offload_optimizer or (engine.name == "fsdp" and engine.offload_weights)
    parts = [
        part("frozen weights", frozen_bytes(model, setup), engine.shards_weights, engine.offload_weights),
        part("trained weights", trained * width, engine.shards_weights, engine.offload_weights),
    ]
    if engine.shards_weights:
        parts.append(part("weights gathered for the layers at work", gathered(model, setup) * setup.dtype.itemsize))
    parts.append(
        part("gradients", trained * width, engine.shards_gradients, optimizer_offloaded and engine.shards_gradients)
    )
    if engine.deepspeed or engine.name == "ddp":
        parts.append(part("gradient bucket", (REDUCE_BUCKET if engine.deepspeed else trained) * width))
    state = MOMENTS
    if engine.deepspeed and (engine.name != "zero3" or width < 4 or engine.offload_optimizer):
        state += 4  # masters; stage 3 in float32 takes the weights themselves, unless they lie elsewhere
    if engine.offload_optimizer:
        state += 4 + (width if engine.name != "zero3" else 0)  # the gradient in float32; the weights on their way back
    parts.append(part("optimizer state", trained * state, engine.shards_optimizer, optimizer_offloaded))
    if setup.keeps_copies:
        parts.append(part("last good adapter, and the one before", 2 * trained * width, engine.name == "fsdp", True))
    return parts


def frozen_bytes(model: PeftModel, setup: Setup) -> float:
    """Bytes of the frozen weights; under nf4 the language model's linear layers take about half a byte a parameter."""
    quantized = language_weights(model, setup) if setup.quantization == "nf4" else set()
    return sum(
        parameter.numel() * (NF4 if parameter in quantized else parameter.itemsize)
        for parameter in model.parameters()
        if not parameter.requires_grad
    )


def language_weights(model: PeftModel, setup: Setup) -> set[nn.Parameter]:
    """The frozen weights of the language model's linear layers."""
    return {
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f".{setup.parts.language_model}." in name and ".lora_" not in name
    }


def gathered(model: PeftModel, setup: Setup) -> int:
    """How many parameters a process that shards its weights has gathered at once.

    ZeRO-3 keeps what it will soon need again, up to its bound. FSDP keeps all that is no layer of the language model,
    and gathers the next layer while one works.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    if setup.engine.name == "zero3":
        return min(ZERO3_LIVE, sum(sizes.values()))
    layers = sum(size for name, size in sizes.items() if f".{setup.parts.language_model}.layers." in name)
    return sum(sizes.values()) - layers + 2 * layers // model.config.text_config.num_hidden_layers


def made(model: PeftModel, setup: Setup, method: Method, step: MicroStep) -> list[Part]:
    """What a micro-step makes, by playing it through as the trainer does.

    Attention is SDPA with a mask, or eager; flash attention takes a little less. Dropout is the fused one of GPUs,
    which keeps a byte an element; that of CPUs keeps four.
    """
    if setup.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    with FakeTensorMode():
        _imagine(model, setup.working_dtype)
        with Live(model) as live:
            logits = _forward(model, setup, step.rows, step.length, sum(step.terms.values()))
            kept = live.now - logits.nbytes
            loss = _loss(model, setup, method, step, logits)
            del logits
            computed = live.now
            loss.backward()
    passing = live.peak - computed
    if setup.quantization == "nf4":
        # Products are made with one layer's weights at a time, turned back to `dtype`.
        passing += max(weight.nbytes for weight in language_weights(model, setup))
    return [
        Part("activations kept for the backward pass", kept),
        Part("logits and losses", computed - kept),
        Part("passing, at the peak", passing),
    ]


class Live(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on: those alive `now`, and the `peak`. `model`'s own are left out.

    The library's own `torch.distributed._tools.mem_tracker` fails on a model of which a part is frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in [*model.parameters(), *model.buffers()]:
            for present in (tensor, tensor.grad):
                if present is not None:
                    self._known[present.untyped_storage()] = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = True
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size


class _FusedDropout(nn.Module):
    """Dropout as on a GPU: keeps a mask of one byte an element."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0]


def _imagine(model: PeftModel, trained: torch.dtype) -> None:
    """Put tensors without contents in place of those on the meta device, whose operations differ from a real device's.

    Trained parameters get a gradient: every micro-step but an optimizer step's first finds one.
    """
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            dtype = trained if parameter.requires_grad else parameter.dtype
            imagined = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), parameter.requires_grad)
            imagined.grad = torch.empty_like(imagined) if parameter.requires_grad else None
            setattr(module, name, imagined)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, _FusedDropout(child.p))


def _forward(model: PeftModel, setup: Setup, rows: int, length: int, read: int) -> Tensor:
    """Logits at `read` positions, (read, vocabulary), through LLaVA's own parts.

    LLaVA's forward as a whole looks at what tensors contain: how many tokens stand for a picture, which are read.
    """
    base = model.get_base_model()
    size = base.config.vision_config.image_size
    with torch.autocast("cpu", setup.dtype) if setup.autocast else nullcontext():
        tokens = torch.zeros(rows, length, dtype=torch.long)
        pictures = base.get_image_features(torch.zeros(rows, 3, size, size))
        embedded = base.get_input_embeddings()(tokens)
        features = torch.cat(pictures.pooler_output).to(embedded.dtype)
        embedded = embedded.masked_scatter((tokens == 0)[..., None], features)
        outputs = base.model.language_model(
            inputs_embeds=embedded, attention_mask=torch.ones(rows, length, dtype=torch.long), use_cache=False
        )
        logits = base.lm_head(outputs.last_hidden_state.flatten(0, 1)[torch.zeros(read, dtype=torch.long)])
    return logits.float() if setup.autocast else logits


def _loss(model: PeftModel, setup: Setup, method: Method, step: MicroStep, logits: Tensor) -> Tensor:
    """The method's loss on `step`, as the trainer computes it: of several rows a term joins the logits."""
    values = []
    for term, mine in zip(method.terms.values(), logits.split(list(step.terms.values())), strict=True):
        rows, reference = step.items * len(term.views), None
        if LOSSES[term.loss].needs_reference:
            with torch.no_grad(), model.disable_adapter():
                reference = _forward(model, setup, rows, step.length, len(mine))
        place = torch.zeros(len(mine), dtype=torch.long)
        at = Positions(mine.clone() if rows > 1 else mine, place, place, step.items, reference)
        values.append(term.weight * LOSSES[term.loss].function(at))
    return torch.stack(values).sum()
