"""The one configuration path: a recipe (YAML) becomes a validated, frozen `RunConfig`.

Imports neither torch nor transformers, so `sage-dpo run --help` and a typing error in a recipe answer at once.
Variants (where problems come from, which suites) are tagged unions on `kind`: a key that makes no sense for the
chosen kind cannot be written. Unknown keys are errors that name the nearest known key.

What this package does not know: the fields of TRL's own trainer arguments. `training.trainer` is handed on to
`sage_dpo.training.SAGEConfig` as it is, and checked there before any work starts.
"""

from sage_dpo.config.builtin import (
    BuiltinRecipe,
    builtin_launchers,
    builtin_recipes,
    builtin_studies,
    find_launcher,
    find_recipe,
    find_study,
)
from sage_dpo.config.engines import (
    LOCAL_ENGINE,
    EngineSettings,
    LoraSyncSettings,
    ReloadSyncSettings,
    RestartSyncSettings,
    ServerEngineSettings,
    SyncSettings,
    TransformersEngineSettings,
    server_root,
)
from sage_dpo.config.files import dump_config, load_config, parse_yaml, read_yaml, recorded_values
from sage_dpo.config.recipe import ArmSettings, RunConfig
from sage_dpo.config.sampling import (
    EverydayProblemSettings,
    FileProblemSettings,
    FixedPairSettings,
    GymProblemSettings,
    HeldOutProblemSettings,
    OnPolicyPairSettings,
    PairSettings,
    ProbeSettings,
    ProblemFileSettings,
    ProblemSettings,
    RolloutSettings,
    SeveralFileProblemSettings,
    VerificationSettings,
)
from sage_dpo.config.secrets import redact, redact_text
from sage_dpo.config.section import Section, set_dotted, validate, with_attributes
from sage_dpo.config.selection import PoolSettings, SelectorSettings
from sage_dpo.config.training import (
    BenchmarkSuiteSettings,
    EvaluationSettings,
    EverydaySuiteSettings,
    FileSuiteSettings,
    GymSuiteSettings,
    LoraSettings,
    PolicySettings,
    ScoringSettings,
    SuiteSettings,
    TrainingSettings,
)

__all__ = [
    "LOCAL_ENGINE",
    "ArmSettings",
    "BenchmarkSuiteSettings",
    "BuiltinRecipe",
    "EngineSettings",
    "EvaluationSettings",
    "EverydayProblemSettings",
    "EverydaySuiteSettings",
    "FileProblemSettings",
    "FileSuiteSettings",
    "FixedPairSettings",
    "GymProblemSettings",
    "GymSuiteSettings",
    "HeldOutProblemSettings",
    "LoraSettings",
    "LoraSyncSettings",
    "OnPolicyPairSettings",
    "PairSettings",
    "PolicySettings",
    "PoolSettings",
    "ProbeSettings",
    "ProblemFileSettings",
    "ProblemSettings",
    "ReloadSyncSettings",
    "RestartSyncSettings",
    "RolloutSettings",
    "RunConfig",
    "ScoringSettings",
    "Section",
    "SelectorSettings",
    "ServerEngineSettings",
    "SeveralFileProblemSettings",
    "SuiteSettings",
    "SyncSettings",
    "TrainingSettings",
    "TransformersEngineSettings",
    "VerificationSettings",
    "builtin_launchers",
    "builtin_recipes",
    "builtin_studies",
    "dump_config",
    "find_launcher",
    "find_recipe",
    "find_study",
    "load_config",
    "parse_yaml",
    "read_yaml",
    "recorded_values",
    "redact",
    "redact_text",
    "server_root",
    "set_dotted",
    "validate",
    "with_attributes",
]
