"""The modes in which a flag of train.py is read: a test of the options, and why it is not read elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nerf_dfa.fields.mlp import SKIP_AFTER

if TYPE_CHECKING:
    from nerf_dfa.nerf.options import Options

Condition = tuple[Callable[["Options"], bool], str]

EACH_RULES = ("dfa", "hdfa", "modular")
RANDOM_RULES = (*EACH_RULES, "drtp")
RANDOM: Condition = (lambda o: o.learning_rule in RANDOM_RULES, f"only {', '.join(RANDOM_RULES)} draw such a matrix")
EACH: Condition = (lambda o: o.learning_rule in EACH_RULES, f"only {', '.join(EACH_RULES)} draw one for each layer")
SELECTING: Condition = (lambda o: o.learning_rule != "drtp", "drtp has targets for all samples")
HYBRID: Condition = (lambda o: o.learning_rule == "hdfa", "only hdfa has exact steps among direct ones")
ADAM: Condition = (lambda o: o.learning_rule != "hdfa", "hdfa has an optimiser of its own")
DIRECT_RULES = ("dfa", "dkp", "fdfa", "mdfa")
DIRECT: Condition = (
    lambda o: o.learning_rule in (*DIRECT_RULES, "hdfa"),
    f"only {', '.join(DIRECT_RULES)}, hdfa read it",
)
BRANCHED: Condition = (
    lambda o: DIRECT[0](o) and (o.field == "grid" or o.use_viewdirs),
    f"it needs {', '.join(DIRECT_RULES)} or hdfa, and layers that lead to the colour alone (use_viewdirs)",
)
# Not hdfa: its exact steps would not be exact with the gradients that these put in between.
DIRECT_MLP: Condition = (
    lambda o: o.field == "mlp" and o.learning_rule in DIRECT_RULES,
    f"it needs field = mlp and learning_rule = {', '.join(DIRECT_RULES)}",
)
LEARNED: Condition = (lambda o: o.learning_rule == "dkp", "only the feedback of dkp learns by a rate")
PROBED: Condition = (lambda o: o.learning_rule in ("fdfa", "mdfa"), "only fdfa and mdfa estimate their feedback")
COMPILED: Condition = (
    lambda o: not PROBED[0](o),
    "what fdfa and mdfa estimate their feedback by, forward derivatives, a compiled network loses",
)
TAUGHT: Condition = (lambda o: o.learning_rule == "mdfa", "only mdfa fits its feedback to more than the error")
MLP: Condition = (lambda o: o.field == "mlp", "field = grid does not read it")
GRID: Condition = (lambda o: o.field == "grid", "field = mlp does not read it")
GRID_FEEDBACK: Condition = (
    lambda o: o.field == "grid" and o.learning_rule in (*DIRECT_RULES, "modular"),
    f"it needs field = grid and learning_rule = {', '.join(DIRECT_RULES)}, modular",
)
KEPT: Condition = (lambda o: SELECTING[0](o) and o.error_kept < 1, "with error_kept = 1 all samples go back")
BOXED: Condition = (lambda o: o.field == "grid" or bool(o.occupancy), "it needs field = grid or an occupancy")
FINE: Condition = (lambda o: o.N_importance > 0, "N_importance = 0 trains no fine network")
FINE_MLP: Condition = (lambda o: o.N_importance > 0 and o.field == "mlp", "there is no fine MLP")
ENCODED: Condition = (
    lambda o: o.i_embed == 0 and o.field == "mlp",
    "it needs field = mlp and i_embed = 0",
)
ENCODED_VIEWS: Condition = (
    lambda o: o.field == "grid" or (o.i_embed == 0 and o.use_viewdirs),
    "it needs use_viewdirs and i_embed = 0",
)
DEEP: Condition = (
    lambda o: o.field == "mlp" and max(o.netdepth, o.netdepth_fine if o.N_importance else 0) > SKIP_AFTER + 1,
    f"it needs field = mlp of more than {SKIP_AFTER + 1} layers",
)
MLP_VIEWS: Condition = (lambda o: o.field == "mlp" and o.use_viewdirs, "it needs field = mlp and use_viewdirs")
PRECROP: Condition = (lambda o: o.precrop_iters > 0, "precrop_iters is 0")
RENDER_ONLY: Condition = (lambda o: o.render_only, "render_only is not set")
MOVING: Condition = (lambda o: o.path != "test", "--path test takes the test views' own poses")
