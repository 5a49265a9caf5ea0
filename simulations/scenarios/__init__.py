"""Classic traps and bugs that were found, each a function of a seed that raises when a promise is broken.

A scenario returns one line on what happened. A seed that failed once stays here as a scenario of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from simulations.scenarios.disks import (
    clock_jump_of_an_hour,
    hiccup_of_the_leaders_disk,
    power_cut_of_all,
    slow_disk_on_leader,
    slow_leader_forgets_what_a_follower_has,
    stuck_disk_on_leader,
)
from simulations.scenarios.elections import (
    asymmetric_switch,
    disruptive_returning_server,
    double_vote_after_crash,
    double_vote_to_the_letter,
    figure_8,
    figure_8_to_the_letter,
    machines_far_apart,
    reads_at_a_cut_off_leader,
    reads_at_a_leader_that_hears_of_no_other,
    tied_elections,
)
from simulations.scenarios.forming import (
    addresses_change,
    discovery_loses_most,
    two_hives_with_data_meet,
    two_virgin_hives_meet,
)
from simulations.scenarios.losses import (
    flipped_bit_before_a_snapshot,
    flipped_bit_in_agreed_state,
    flipped_bit_in_the_log,
    snapshot_cut_half_way,
    two_nodes_one_lost,
)
from simulations.scenarios.members import (
    change_under_partition,
    clock_set_back_and_disk_lost,
    join_answers_lost,
    join_takes_a_moment,
    joint_change_behind_a_cut,
    last_voter_forgets_that_the_other_left,
    newcomers_lead_whom_a_member_never_met,
    removed_voter_comes_to_lead,
    voter_leaves_while_another_is_down,
    worker_gone_for_good,
    worker_is_given_voter_right_while_a_member_is_away,
    worker_reports_late,
    worker_restarts_during_a_transfer,
)
from simulations.scenarios.trust import (
    revoked_machine_comes_with_an_empty_disk,
    revoked_machine_is_let_in_again,
    revoked_machine_leads_when_it_is_in_again,
    revoked_voter_goes_on,
    voter_is_revoked_while_another_is_down,
    worker_is_given_voter_right,
)

Scenario = Callable[[int], str]

# The cheapest first: whoever plays them all until one fails is done the sooner.
ALL: Final[dict[str, Scenario]] = {
    scenario.__name__: scenario
    for scenario in (
        worker_restarts_during_a_transfer,
        join_answers_lost,
        join_takes_a_moment,
        clock_jump_of_an_hour,
        clock_set_back_and_disk_lost,
        removed_voter_comes_to_lead,
        last_voter_forgets_that_the_other_left,
        worker_is_given_voter_right_while_a_member_is_away,
        worker_is_given_voter_right,
        voter_is_revoked_while_another_is_down,
        revoked_machine_comes_with_an_empty_disk,
        revoked_machine_is_let_in_again,
        revoked_machine_leads_when_it_is_in_again,
        revoked_voter_goes_on,
        joint_change_behind_a_cut,
        voter_leaves_while_another_is_down,
        newcomers_lead_whom_a_member_never_met,
        worker_gone_for_good,
        slow_disk_on_leader,
        slow_leader_forgets_what_a_follower_has,
        hiccup_of_the_leaders_disk,
        stuck_disk_on_leader,
        asymmetric_switch,
        double_vote_after_crash,
        double_vote_to_the_letter,
        tied_elections,
        change_under_partition,
        figure_8,
        reads_at_a_cut_off_leader,
        reads_at_a_leader_that_hears_of_no_other,
        machines_far_apart,
        figure_8_to_the_letter,
        disruptive_returning_server,
        worker_reports_late,
        two_virgin_hives_meet,
        two_hives_with_data_meet,
        discovery_loses_most,
        addresses_change,
        two_nodes_one_lost,
        snapshot_cut_half_way,
        flipped_bit_before_a_snapshot,
        flipped_bit_in_agreed_state,
        flipped_bit_in_the_log,
        power_cut_of_all,
    )
}
