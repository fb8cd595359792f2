"""What of a model learns: frozen parameters, gate noise, and low-rank adapters (LoRA).

Adapters come from peft. They are put into the model in place and merged into its weights after training. The model
keeps its class, so whatever reads routers or computes losses sees the architecture it knows, and the saved checkpoint
is an ordinary one without adapters. On request they are saved before they are merged, too.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from harness.errors import MoemixError, nearest
from harness.files import whole_directory, write_json
from harness.recipe import ROUTER_MODULES, LoRA
from trainers.models.routers import moe_blocks

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger("moemix.training")

Frozen = Literal["none", "router", "paper"]
"""The recipe's ``training.freeze``. ``router`` freezes the routers' parameters. ``paper`` freezes every parameter with
``gate`` in its name, as the paper's runs did; that includes the gate projections of the experts. Where an architecture
keeps gate and up projections in one tensor (``gate_up_proj``), its gate half is frozen."""


class BaseName(NamedTuple):
    """What users know a base model by: a folder or a hub id, and its revision."""

    name: str
    revision: str | None = None


def freeze(model: nn.Module, which: Frozen, weight_decay: float = 0.0) -> None:
    """Exclude parameters from training; what the architecture itself holds fixed stays so.

    Raises:
        MoemixError: the model has no such parameter, or half a tensor should be frozen under weight decay.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        if not is_frozen(name, which):
            continue
        frozen += 1
        if half := _gate_half(model, name):
            if weight_decay:
                raise MoemixError(
                    f"{name} holds gate and up projections, and weight decay would change the frozen half",
                    where=f"training.freeze={which}",
                    hint="set training.weight_decay=0",
                )
            parameter.register_hook(half)
        else:
            parameter.requires_grad_(False)
    if which != "none" and not frozen:
        raise MoemixError(f"{type(model).__name__} has no parameters to freeze", where=f"training.freeze={which}")


def gate_halves(model: nn.Module, which: Frozen) -> dict[str, GateHalf]:
    """Return what freezes the gate half of each trained tensor that holds gate and up projections, by its name."""
    found = {
        name: _gate_half(model, name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and is_frozen(name, which)
    }
    return {name: half for name, half in found.items() if half}


@dataclass(frozen=True)
class GateHalf:
    """A gradient hook that leaves the gate projections in ``gate_up_proj`` as they are."""

    axis: int
    interleaved: bool

    def __call__(self, gradient: Tensor) -> Tensor:
        """Return the gradient with zeros for the gate."""
        kept = gradient.clone()
        size = gradient.shape[self.axis]
        gate = slice(0, size, 2) if self.interleaved else slice(0, size // 2)
        kept[(slice(None),) * self.axis + (gate,)] = 0
        return kept


def _gate_half(model: nn.Module, name: str) -> GateHalf | None:
    """Return what freezes the gate half of a tensor that holds gate and up projections; None for any other."""
    path, _, last = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")
    if "gate_up_proj" not in last:
        return None
    module, parameter = model.get_submodule(path), model.get_parameter(name)
    interleaved = not getattr(module, "is_concatenated", True)
    if last.endswith("_bias") or name.endswith(".bias"):
        return GateHalf(parameter.ndim - 1, interleaved)
    if parameter.ndim == 2:
        return GateHalf(0, interleaved)
    down = cast("Tensor", module.down_proj).shape  # [E, H, I], or [E, I, H] where matrices are transposed
    transposed = getattr(module, "is_transposed", parameter.shape[2] == 2 * down[1])
    return GateHalf(2 if transposed else 1, interleaved)


def fixed_biases(model: nn.Module) -> list[str]:
    """Return the names of the routers' biases that an architecture balances its experts with, outside of the gradient.

    Their authors update them in training; transformers does not, and neither does this project.
    """
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    fixed += [name for name, _ in model.named_buffers()]
    kinds = ("correction_bias", "expert_bias", "balancing_bias")
    return [name for name in fixed if any(kind in name for kind in kinds)]


def is_frozen(name: str, which: Frozen) -> bool:
    """Return whether :func:`freeze` freezes a parameter (or all of a module) of this name."""
    of_router = not ROUTER_MODULES.isdisjoint(name.split("."))
    return (which == "router" and of_router) or (which == "paper" and "gate" in name)


def set_gate_noise(model: nn.Module, on: bool) -> None:
    """Switch the noise that routers add in training on or off; they never add it in evaluation.

    This covers noise that a router learns (LLaMA-MoE) and noise that an architecture multiplies its hidden states by
    (``jitter_noise`` of Mixtral and PhiMoE). Switched on, the model's own configuration says how much there is.

    Raises:
        MoemixError: noise should be on, and the model has none.
    """
    noisy = False
    for module in model.modules():
        if hasattr(module, "add_noise"):
            vars(module)["add_noise"] = on and hasattr(module, "weight_noise")
            noisy |= vars(module)["add_noise"]
        for name in ("jitter_noise", "input_jitter_noise"):
            if isinstance(value := getattr(module, name, None), float):
                setattr(module, name, value if on else 0.0)
                noisy |= on and value > 0
    if on and not noisy:
        raise MoemixError(
            f"{type(model).__name__} has no gate noise",
            where="training.gate_noise",
            hint="LLaMA-MoE has gate noise if its configuration says `gate_add_noise`",
        )


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass instead of keeping them.

    Raises:
        MoemixError: the architecture cannot.
    """
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise MoemixError(
            f"{type(model).__name__} does not support activation checkpointing", where="training.gradient_checkpointing"
        ) from error


def add_adapters(model: PreTrainedModel, lora: LoRA, frozen: Frozen, seed: int) -> list[str]:
    """Freeze the model and give its linear layers, and on request its experts, adapters; return their names.

    Layers that ``frozen`` (the recipe's ``training.freeze``) freezes get no adapter, so a frozen router is the same
    after merging. Routers that are not frozen get adapters only if ``lora.targets`` names them. ``seed`` seeds the
    adapters' initial weights, with which they change nothing yet.

    Raises:
        MoemixError: peft is not installed, there is no such layer, the experts cannot be adapted so, or peft could not
            load the adapters that are to be kept.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MoemixError(
            "adapters need the package peft", where="training.lora", hint="pip install moemix[lora]"
        ) from error
    layers, tensors = _targets(model, lora, frozen)
    adapted = sum(model.get_parameter(name).numel() for name in (*(f"{name}.weight" for name in layers), *tensors))
    whole = sum(parameter.numel() for parameter in model.parameters())
    logger.info(
        "adapters reach %.0f %% of the weights: %d linear layers and %d tensors of experts (lora.experts=%s)",
        100 * adapted / whole,
        len(layers),
        len(tensors),
        lora.experts,
    )
    alpha = cast("int", lora.alpha)  # peft accepts any number
    config = LoraConfig(
        r=lora.r,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=[f"model.{name}" for name in layers],
        target_parameters=[f"model.{name}" for name in tensors] or None,
    )
    model.requires_grad_(False)
    holder = (
        nn.Module()
    )  # of a bare model peft would move targets to other layers, as for checkpoints of older versions
    holder.model = model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, holder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    if lora.keep:
        _check_loadable(model, lora)
    return [*layers, *tensors]


def save_adapters(model: PreTrainedModel, lora: LoRA, base: BaseName | None, folder: Path) -> None:
    """Write adapters that are not merged yet into ``folder``, as peft and vLLM read them beside the ``base`` model."""
    config = _adapter_config(model, lora, base)
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    weights = {name: tensor.float().cpu().contiguous() for name, tensor in _adapter_weights(model).items()}
    with whole_directory(folder) as unfinished:
        write_json(unfinished / "adapter_config.json", fields)
        save_file(weights, unfinished / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapter_config(model: PreTrainedModel, lora: LoRA, base: BaseName | None) -> LoraConfig:
    """Return peft's configuration of the adapters in a model; its names are those of the model without them."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer, ParamWrapper

    layers: list[str] = []
    tensors: list[str] = []
    for layer, module in model.named_modules():
        if isinstance(module, ParamWrapper):  # of several around one module, the inner ones are named `….base_layer`
            tensors.append(f"{layer.replace('.base_layer', '')}.{module.parameter_name}")
        elif isinstance(module, LoraLayer):
            # peft takes some layers' names for those of experts in older versions of transformers, but no tensors'.
            moved = _moved_by_peft(model, layer.rpartition(".")[2])
            (tensors if moved else layers).append(f"{layer}.weight" if moved else layer)
    name, revision = base or (None, None)
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=name,
        revision=revision,
        r=lora.r,
        lora_alpha=cast("int", lora.alpha),
        lora_dropout=0.0 if tensors else lora.dropout,  # peft has no dropout for tensors
        target_modules=layers,
        target_parameters=tensors or None,
        inference_mode=True,
    )


def _adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' weights by the names that they have in peft's files."""
    return {
        f"base_model.model.{name.replace('.default.', '.')}": parameter.detach()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def _check_loadable(model: PreTrainedModel, lora: LoRA) -> None:
    """Check that peft will put saved adapters where they were, by loading them into a model without memory.

    Raises:
        MoemixError: it will not.
    """
    from peft import PeftModel, set_peft_model_state_dict

    config, weights = _adapter_config(model, lora, None), _adapter_weights(model)
    try:
        with torch.device("meta"):
            bare = AutoModelForCausalLM.from_config(copy.deepcopy(model.config))
            loaded = PeftModel(bare, config)
            weights = {name: tensor.to("meta") for name, tensor in weights.items()}
            result: Any = set_peft_model_state_dict(loaded, weights, low_cpu_mem_usage=True)
        lost = [name for name in result.missing_keys if ".lora_" in name] + result.unexpected_keys
        reason = f"it does not find {len(lost)} of the weights again: {lost[0]}, …" if lost else ""
    except (ValueError, RuntimeError, KeyError) as error:
        reason = str(error)
    if reason:
        raise MoemixError(
            f"peft could not load these adapters of {type(model).__name__}: {reason}",
            where="training.lora.keep",
            hint="leave such layers out (lora.experts, lora.targets), or set lora.keep=false",
        )


def _moved_by_peft(model: PreTrainedModel, last: str) -> bool:
    """Return whether peft would put the adapter of a layer whose name ends so on other weights when it loads it."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=[last])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # it moves several names together
        return True
    return last not in (config.target_modules or ())


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights and remove them."""
    from peft.tuners.lora import LoraLayer

    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, module in adapted.items():
        module.merge()
        parent, _, last = name.rpartition(".")
        if parent not in adapted:  # where a module has several adapted tensors, one adapter is around the other
            setattr(model.get_submodule(parent), last, module.get_base_layer())


def _targets(model: PreTrainedModel, lora: LoRA, frozen: Frozen) -> tuple[list[str], list[str]]:
    """Return the full names of the layers, and of the experts' tensors, that get adapters."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head]
    bypassed = _bypassed(model, linear)
    linear = [name for name in linear if name not in bypassed]
    known = {name.rpartition(".")[2] for name in linear}
    for target in lora.targets:
        if target not in known:
            raise MoemixError(
                f"{type(model).__name__} has no linear layer {target!r}",
                where="training.lora.targets",
                hint=nearest(target, known),
            )
    blocks = tuple(f"{name}." for name in moe_blocks(model))

    def wanted(name: str) -> bool:
        if lora.targets:
            return name.rpartition(".")[2] in lora.targets
        of_experts = name.startswith(blocks) or "shared" in name
        return ROUTER_MODULES.isdisjoint(name.split(".")) and not (lora.experts == "none" and of_experts)

    layers = [name for name in linear if wanted(name) and not is_frozen(name, frozen)]
    tensors = []
    if lora.experts == "all":
        tensors = [name for name in _expert_tensors(model) if not is_frozen(name, frozen)]
        if not tensors:
            raise MoemixError(
                f"{type(model).__name__} has no tensors [experts, …] that training.freeze={frozen} leaves to adapt",
                where="training.lora.experts",
                hint="set lora.experts=shared",
            )
        if lora.dropout:
            raise MoemixError(
                "adapters of experts' tensors have no dropout", where="training.lora", hint="set lora.dropout=0"
            )
    if not layers and not tensors:
        raise MoemixError(f"training.freeze={frozen} leaves no layer to adapt", where="training.lora.targets")
    return layers, tensors


@torch.no_grad()
def _bypassed(model: PreTrainedModel, linear: Iterable[str]) -> set[str]:
    """Return the linear layers whose weights their parent uses without calling them, as Mamba's ``dt_proj``.

    An adapter changes what a layer returns when it is called, so there it would change nothing.
    """
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()]
    training = model.training
    model.eval()
    try:
        model(input_ids=torch.zeros((1, 4), dtype=torch.long, device=model.device), use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    ran = {name for name in linear if model.get_submodule(name.rpartition(".")[0]) in called}
    return {name for name in ran if model.get_submodule(name) not in called}


def _expert_tensors(model: nn.Module) -> Iterator[str]:
    """Yield the names of the parameters that hold a matrix for every routed expert."""
    for block, experts in moe_blocks(model).items():
        for name, parameter in model.get_submodule(block).named_parameters():
            if parameter.ndim == 3 and len(parameter) == experts:
                yield f"{block}.{name}"
