"""Vision-language models and their adapters: what prepares their input (`preprocessor`), loading (`loading`), a loaded
one (`vlm`), its layers' states (`states`), LoRA and the two stored forms (`adapters`), the projector otherwise than
whole (`projector`), merged models (`merge`), which base and which runs they come from (`fingerprint`, `lineage`),
rounding (`rounding`). What a family calls its parts is data (config/model_family/)."""

from safeeraser.benchmark.family import Family, families
from safeeraser.benchmark.files import adapter_file
from safeeraser.model.adapters import (
    Change,
    adapter_config,
    adapter_parameters,
    attach,
    check_adapter,
    check_kind,
    check_parts,
    convert,
    freeze_above,
    freeze_unseen,
    load_adapted,
    load_adapter,
    lora_config,
    read_adapter,
    trained_parameters,
    unfreeze,
)
from safeeraser.model.fingerprint import fingerprint
from safeeraser.model.lineage import check_base, merged_into, parents
from safeeraser.model.llava import from_release, to_release, write_released_form
from safeeraser.model.loading import (
    DTYPES,
    FAMILY_KEY,
    check_family,
    choose_attention,
    choose_dtype,
    family_if_told,
    family_of,
    load_config,
    load_model,
    load_preprocessor,
)
from safeeraser.model.merge import base_of, merge, write_model
from safeeraser.model.preprocessor import Preprocessor, Row, Shown, Turn
from safeeraser.model.projector import (
    baked,
    load_sines,
    modulate,
    plainly_named,
    reach_projector,
    save_sines,
    stored_as,
)
from safeeraser.model.rounding import ROUNDINGS, round_weights
from safeeraser.model.states import begun_at, language_layers, logits_and_states, up_to
from safeeraser.model.vision import Seen, features_of, look, picture_by_numbers, picture_bytes, see
from safeeraser.model.vlm import VLM, logits, positions

__all__ = [
    "DTYPES",
    "FAMILY_KEY",
    "ROUNDINGS",
    "VLM",
    "Change",
    "Family",
    "Preprocessor",
    "Row",
    "Seen",
    "Shown",
    "Turn",
    "adapter_config",
    "adapter_file",
    "adapter_parameters",
    "attach",
    "baked",
    "base_of",
    "begun_at",
    "check_adapter",
    "check_base",
    "check_family",
    "check_kind",
    "check_parts",
    "choose_attention",
    "choose_dtype",
    "convert",
    "families",
    "family_if_told",
    "family_of",
    "features_of",
    "fingerprint",
    "freeze_above",
    "freeze_unseen",
    "from_release",
    "language_layers",
    "load_adapted",
    "load_adapter",
    "load_config",
    "load_model",
    "load_preprocessor",
    "load_sines",
    "logits",
    "logits_and_states",
    "look",
    "lora_config",
    "merge",
    "merged_into",
    "modulate",
    "parents",
    "picture_by_numbers",
    "picture_bytes",
    "plainly_named",
    "positions",
    "reach_projector",
    "read_adapter",
    "round_weights",
    "save_sines",
    "see",
    "stored_as",
    "to_release",
    "trained_parameters",
    "unfreeze",
    "up_to",
    "write_model",
    "write_released_form",
]
