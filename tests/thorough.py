"""Tests that `pytest` leaves out: what they see, quicker tests see too, of another case.

`pytest -m "thorough or not thorough"` runs everything; do so after a change of the engine and
before a release. A test belongs here if it is slow, and if the same code is run by one that stays:
another case of the same searcher under the same law, another searcher through the same command.
"""

from __future__ import annotations

THOROUGH = {
    # Further settings of a searcher under laws that its first case is under.
    r"test_laws::.*\[(best_of_n_shared|zero_order_elitist|epsilon_greedy_elitist"
    r"|epsilon_greedy_every|gradient_injected|paths_uneven|smc_max|evolution_schedule"
    r"|halving_stops|mcts_stops|rollover_window|markov_chain_injected)-heun",
    r"test_laws::.*\[zero_order-(ddpm|flow_sde)",
    r"test_laws::test_(devices|chunks|one_cand).*\[(mcts_value|cross_entropy_spectral|epsilon_greedy-flow)",
    r"test_laws::test_devices.*\[(smc|beam|svdd|cross_entropy|halving|rollover|markov_chain|evolution|paths)-",
    r"test_laws::test_devices.*\[zero_order",
    r"test_laws::test_counted.*\[(mcts_value-heun|zero_order_stops|cross_entropy_spectral|zero_order-ddim|epsilon_greedy-flow)",
    # Of laws that the engine keeps for all searchers, those of a few.
    r"test_laws::test_second_call.*\[(?!best_of_n|epsilon_greedy|mcts|smc)",
    r"test_laws::test_replay.*\[(zero_order_stops|mcts_value|zero_order-ddim|epsilon_greedy-flow)",
    r"test_laws::test_hostile.*\[(zero_order_stops|mcts_value|svdd)\]",
    r"test_laws::test_noises_are_not_compared.*\[flow_sde",
    r"test_laws::test_chunks.*\[(smc|beam|svdd|cross_entropy|zero_order|markov_chain|evolution|halving|paths|rollover)",
    r"test_sweeps::test_a_grid.*\[(?!epsilon_greedy.epsilon|gradient.clip)",
    # `.ci/run` starts the installed command too.
    r"test_cli::test_the_installed_command",
    # Further searchers, models and verifiers through what one of each goes through.
    r"test_verifiers::test_pick_score_is_that_of_transformers",
    r"test_stable_diffusion::test_a_folder_is_searched\[(epsilon_greedy|paths)",
    r"test_(a_checkpoint|a_pipeline)_is_searched\[(epsilon_greedy|paths)",
    r"test_early::test_the_score_is_that.*\[(best_of_n|mcts|paths|gradient|smc)\]",
    r"test_watch::.*\[(epsilon_greedy|paths|gradient)\]",
    r"test_watch::test_the_way_of_a_sample.*\[mcts\]",
    r"test_host::test_it_goes_on.*\[(evolution|zero_order)",
    r"test_sit_is_searched",
    r"test_model_devices::",
    r"test_plans::.*(stable_diffusion|pixart)",
    r"test_verifier_laws::test_the_gradient.*\[(inception|image_reward|dinov2_classifier|self_supervised|hps|pick_score)",
    r"test_browser::test_a_run_is_shown\[(400-light|1280)",
    r"test_aggregate::test_what_is_kept.*\[(zero_order|evolution|rollover)",
    r"test_host::test_host_scores.*\[(paths_uneven|mcts_stops|rollover)\]",
    r"test_smc::test_weighted_particles.*\[settings(0|1|3)\]",
    r"test_verifier_laws::.*\[(clip_score of Ma|zero_shot prob|self_supervised by|aesthetic 2)",
    r"test_verifier_laws::.*\[hps anti",
    r"test_verifier_laws::test_(how_far|thousands|sides)",
    r"test_verifiers::test_scores_are_those_of_transformers.*\[clip_score\]",
    r"test_verifiers::test_hps_is_the.*\[True\]",
    r"test_a_trajectory_is_that_of_diffusers\[1\]",
    r"test_inception::test_the_score_is_the_probability.*\[False\]",
    r"a_sit_that_predicts_no_velocity.*\[noise\]",
    r"test_cross_entropy::test_it_finds_a_known_optimum\[random\]",
    r"test_gradient::test_the_optimum_of_a_quadratic\[False\]",
    r"test_budget::test_a_tree_never_spends_more.*\[sample\]",
    r"test_dit::test_guidance_doubles",
    r"test_converting::test_prompts_from_a_file",
    r"test_scenes::test_(the_denoiser_says.*\[large|gradients_lead.*\[attributes)",
    # The same at another size.
    r"test_mixed::test_a_mix_is_the_search.*\[None-(worst|weighted|mean_rank)",
    r"test_unet2d_condition::test_computes_as_diffusers_does\[one",
    r"test_unet2d_condition::test_published_sizes\[changes0",
    r"test_mmdit::test_computes_as_diffusers_does\[3-",
    r"test_dit::test_denoiser\[(3-1.0|None-4.0)",
    r"test_sit::test_denoiser\[.*gvp-(score|noise)",
    r"test_edm_folder::test_a_pickle_of_song.*\[VP",
    r"test_gradients::test_gradients_are_finite_differences\[(ddim|flow_sde)",
    r"test_traced::test_other_numbers.*\[two numbers",
    r"test_dinov2::test_files_of_meta\[.*-1",
    r"test_(adm|song|adm_classifier|resnet)::test_half_precision.*\[(?!plain|basic)",
    r"test_train_scenes::test_the_package_has.*\[(large|contrastive|attributes|taste)\]",
    r"test_beam::test_a_narrow_beam",
    r"test_mcts::test_it_finds_one_of_the_best",
    r"test_it_is_the_largest_that_is_never_above\[(paths|beam)\]",
    r"test_budget::test_prices_that_bend",
    r"test_mcts::test_(every_simulation_visits|simulations_under_way_part)",
    r"test_mcts::test_rounds_of_several_leaves.*\[(visits-2|mean-2)\]",
    r"test_mcts::test_means_are_those_of_finished",
    r"test_paths::test_it_is_the_search_written_out\[ddim\]",
    r"test_paths::test_(the_published_levels|a_recipe_is_enough\[ddim\])",
    r"test_beam::test_it_is_the_search_written_out\[1\]",
    r"test_halving::test_the_better_part",
    r"test_gradient::test_the_regularised_optimum",
    r"test_halving::test_a_prompt_that_is_good_enough.*searcher1",
    r"test_value::test_a_rollout.*\[(ddim|ddpm|flow_sde)\]",
    r"test_stable_diffusion_xl::test_(its_folder_is_searched|a_trajectory.*\[turbo)",
    r"test_(pixart_sigma|stable_diffusion_3)::test_a_folder_is_searched",
    r"test_mmdit::test_published_sizes\[entries0",
    r"test_flux::test_a_trajectory_is_that_of_diffusers\[(dev\]|schnell)",
    r"test_flux::test_a_folder_is_searched\[schnell",
    r"test_(unet2d_condition|pixart|mmdit|flux|siglip|image_reward)::test_bfloat16",
    r"test_inception::test_half_precision",
    r"test_unet2d_condition::test_computes_as_diffusers_does\[deep",
    r"test_autoencoder_kl::test_a_gradient_may_compute",
    r"test_verifiers::test_the_gradient_goes_through_the_path",
    r"test_gradient::test_the_recipe_makes_the_sample\[gradient_injected",
    r"test_diffusers::test_(ddpm|ddim)\[.*(50|25)",
    r"test_judges::(test_one_that_reports|test_a_cap.*\[report\]|test_a_service_that_answers)",
    # Killed for real, many times; each kill by itself stays.
    r"test_resume::test_killed_(again_and_again|while_results)",
    r"test_(killed::test_two_processes|judges::test_killed_processes)",
    # Graded and killed; one that is graded and stopped stays, and so do kills of others.
    r"test_grading::test_a_killed_run",
    # Of programs compiled as users', what the gradient's chunks see in part.
    r"test_as_users_compile::.*\[test_(checkpoint|device_bits)",
}
"""Patterns of what stands in `<module>::<test>[<case>]`."""
