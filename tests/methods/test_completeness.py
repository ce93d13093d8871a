"""What each method of conf/method owes: a paper, needs, a test with its mechanism off, a step computed by hand."""

import re
from functools import cache
from pathlib import Path

import pytest

from fourfold import schema
from fourfold.composition import config_directory
from fourfold.members import target
from learning import member

METHODS = sorted(path.stem for path in (config_directory() / "method").glob("*.yaml") if path.stem[0] != "_")
HERE = Path(__file__).resolve().parent

# method -> (test with the mechanism off, or before it has anything to act on: finetune bit for bit; test by hand).
PROVED = {
    "a_gem": ("test_in_the_first_context_it_is_finetune_bit_for_bit", "test_one_step_of_a_gem_by_hand"),
    "bgd": ("test_bgd_without_deviation_is_gradient_descent", "test_one_step_of_bgd_by_hand"),
    "bi_r": ("test_switched_off_it_is_finetune_bit_for_bit", "test_one_step_of_brain_inspired_replay_by_hand"),
    "bic": (
        "test_bic_without_its_parts_is_finetune_bit_for_bit",
        "test_a_step_of_bic_in_its_second_context_by_hand",
    ),
    "cn_dpm": (
        "test_what_an_expert_explains_teaches_that_expert",
        "test_a_new_expert_is_shown_the_hidden_layers_before_it_and_does_not_change_them",
    ),
    "der": ("test_der_without_its_losses_is_finetune_bit_for_bit", "test_one_step_of_der_plus_plus_by_hand"),
    "der_plus_plus": ("test_der_without_its_losses_is_finetune_bit_for_bit", "test_one_step_of_der_plus_plus_by_hand"),
    "dgr": ("test_generative_replay_is_finetune_until_there_is_a_past", "test_one_step_of_generative_replay_by_hand"),
    "dgr_distill": (
        "test_generative_replay_is_finetune_until_there_is_a_past",
        "test_one_step_of_generative_replay_by_hand",
    ),
    "er_ace": ("test_before_there_is_a_memory_it_is_finetune_bit_for_bit", "test_one_step_of_er_ace_by_hand"),
    "ewc": ("test_without_strength_it_is_finetune_bit_for_bit", "test_one_step_of_ewc_by_hand"),
    "gem": (
        "test_in_the_first_context_it_is_finetune_bit_for_bit",
        "test_one_step_of_gem_keeps_every_constraint_and_moves_least",
    ),
    "gss": (
        "test_before_there_is_a_memory_it_is_finetune_bit_for_bit",
        "test_gss_replaces_the_member_that_is_most_alike",
    ),
    "lfl": ("test_switched_off_it_is_finetune_bit_for_bit", "test_one_step_of_lfl_by_hand"),
    "lora": (
        "test_the_update_starts_at_zero_and_is_scaled_by_alpha_over_rank",
        "test_the_update_starts_at_zero_and_is_scaled_by_alpha_over_rank",
    ),
    "lwf": ("test_lwf_without_strength_is_finetune_bit_for_bit", "test_one_step_of_lwf_by_hand"),
    "mas": ("test_without_strength_it_is_finetune_bit_for_bit", "test_mas_of_a_linear_model_is_the_closed_form"),
    "mir": (
        "test_before_there_is_a_memory_it_is_finetune_bit_for_bit",
        "test_mir_takes_the_samples_that_the_step_hurts_most",
    ),
    "online_ewc": (
        "test_without_strength_it_is_finetune_bit_for_bit",
        "test_online_ewc_keeps_one_information_and_the_last_optimum",
    ),
    "packnet": (
        "test_packnet_without_pruning_is_finetune_in_its_first_context",
        "test_packnet_prunes_the_smallest_free_weights",
    ),
    "replay": ("test_before_there_is_a_memory_it_is_finetune_bit_for_bit", "test_one_step_of_replay_by_hand"),
    "rwalk": ("test_without_strength_it_is_finetune_bit_for_bit", "test_rwalk_by_hand"),
    "self_supervised": (
        "test_switched_off_it_is_finetune_bit_for_bit",
        "test_one_step_with_auxiliary_tasks_by_hand",
    ),
    "si": ("test_without_strength_it_is_finetune_bit_for_bit", "test_si_by_hand"),
    "xdg": (
        "test_xdg_with_open_gates_is_finetune_bit_for_bit",
        "test_xdg_multiplies_each_hidden_unit_by_its_tasks_gate",
    ),
}
# Methods that are not finetune with something added, and what stands for the two tests.
OTHERWISE = {
    "anil": ("its head alone is adapted", "test_the_head_alone_is_adapted"),
    "anml": ("learned over sequences", "test_a_layer_learned_one_by_one_is_gradient_descent_by_autograd"),
    "ar1": ("layers below are held by SI", "test_ar1_goes_on_training_the_layers_below_and_cuts_their_importance"),
    "avalanche": ("the library's own loop", "test_goes_through_the_stream_in_the_steps_of_the_cell"),
    "cumulative": ("a bound", "test_cumulative_sees_what_came_so_far"),
    "cwr": ("its head is copied weights", "test_cwr_consolidates_by_hand_and_trains_the_layers_below_once"),
    "dtp": ("finetune with another rule, tested in tests/rules", None),
    "execute": ("it does not learn", None),
    "fine_tuning": ("finetune from meta-trained weights", "test_a_method_is_trained_before_the_stream"),
    "finetune": ("it is what others are compared with", "test_a_prediction_used_again_changes_nothing"),
    "gdumb": ("it learns from its memory alone", "test_gdumb_learns_from_its_balanced_memory_alone"),
    "hat": (
        "units are gated from the first step on",
        "test_hat_holds_weights_between_used_units_and_trains_the_others",
    ),
    "icarl": ("a binary cross entropy for each class", "test_one_step_of_icarl_by_hand"),
    "inference": ("it does not learn", None),
    "itaml": ("a meta-gradient over many heads", "test_many_heads_over_one_body"),
    "joint": ("a bound", "test_bounds_take_as_many_steps_as_others"),
    "la_maml": ("a meta-gradient", "test_la_maml_moves_its_step_sizes_first_and_the_weights_by_them"),
    "lightning": ("a module from elsewhere", None),
    "maml": ("a meta-gradient", "test_maml_leaves_its_slow_weights_and_starts_each_batch_from_them"),
    "metabgd": (
        "a meta-gradient",
        "test_metabgd_without_deviation_is_a_gradient_step_through_the_batch_before",
    ),
    "metacog": ("masks are adapted", "test_metacog_adapts_masks_and_the_last_layer"),
    "oml": ("learned over sequences", "test_a_layer_learned_one_by_one_is_gradient_descent_by_autograd"),
    "online_adam": ("finetune step by step", None),
    "online_sgd": ("finetune step by step", None),
    "pnn": ("a column a task", "test_a_new_column_sees_earlier_ones_through_its_adapters_alone"),
    "random": ("it does not learn", None),
    "reptile": ("weights go a part of the way", "test_reptile_goes_a_part_of_the_way"),
    "rlhf": ("reinforcement learning", "test_the_policys_loss_is_clipped_where_there_is_nothing_to_gain"),
    "separate_networks": ("a bound", "test_nothing_is_forgotten_to_the_last_bit"),
    "serving": ("it does not learn", "test_goodput_by_hand"),
    "slda": ("no gradients", "test_slda_is_the_closed_form_whatever_the_order"),
} | {
    name: ("a meta-gradient", "test_a_meta_update_is_the_gradient_through_the_batch_before")
    for name in METHODS
    if name.startswith("cmaml")
}
# Methods of no paper of their own: plain training, bounds and what does not learn.
NO_PAPER = {"avalanche", "cumulative", "execute", "finetune", "inference", "joint", "lightning", "online_adam"}
NO_PAPER |= {"online_sgd", "random", "separate_networks", "serving"}


@cache
def present_tests() -> set[str]:
    return {name for path in HERE.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}


def test_every_method_is_in_one_of_the_two_tables() -> None:
    assert not PROVED.keys() & OTHERWISE.keys()
    missing = set(METHODS) - PROVED.keys() - OTHERWISE.keys()
    assert not missing, f"no ablation test is named for {sorted(missing)}, nor why there is none"


@pytest.mark.parametrize("method", METHODS)
def test_it_names_its_paper_its_needs_and_its_tests(method: str) -> None:
    named = PROVED.get(method) or OTHERWISE[method][1:]
    assert {name for name in named if name} <= present_tests()
    node = member(f"method/{method}")
    own = target(node).__doc__ or ""
    assert own, "the class has no docstring"
    module = __import__(target(node).__module__, fromlist=["_"]).__doc__ or ""
    head = (config_directory() / "method" / f"{method}.yaml").read_text().splitlines()[0]
    if method not in NO_PAPER:
        year = re.compile(r"\b(19|20)\d\d\b")
        assert year.search(own) or year.search(module) or year.search(head), "no paper is named"
    assert node["needs"] or method in ("execute", "random")
    assert f"method={method}" in head or f"method/{method}" in head or "method=" in head, "no command to try it"
    numbers = [key for key, value in node.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    limits = node.get("limits", {})
    unbounded = [key for key in numbers if key not in limits and f"method.{key}" not in schema.RANGES]
    assert not unbounded, f"no limits for {unbounded}"
