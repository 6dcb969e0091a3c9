//! Kubernetes' classes of service, as far as the kernel is told: `oom_score_adj`.

use super::Node;
use crate::manifest::{Container, Pod, Resources};

/// A pod whose every container has limits for CPU and memory and asks for just that.
const GUARANTEED: i32 = -997;
/// A pod that asks for nothing.
const BEST_EFFORT: i32 = 1000;

/// How readily the kernel kills the container when memory runs out, as kubelet sets it.
///
/// Without CAP_SYS_RESOURCE nobody can go below where he stands, so the value is raised to that.
pub(super) fn oom_score_adj(pod: &Pod, container: &Container, node: &Node) -> i32 {
    let wanted = wanted(pod, container, node);
    node.lowest_oom_score_adj.map_or(wanted, |lowest| wanted.max(lowest))
}

fn wanted(pod: &Pod, container: &Container, node: &Node) -> i32 {
    let nothing = |one: &Container| one.resources == Resources::default();
    if pod.all_containers().all(|one| guaranteed(&one.resources)) {
        return GUARANTEED;
    }
    if pod.all_containers().all(nothing) {
        return BEST_EFFORT;
    }
    // Burstable: the larger the share of the node's memory asked for, the safer; always between the
    // other two classes.
    let share = u128::from(container.resources.memory_request.unwrap_or(0)) * 1000 / u128::from(node.memory.max(1));
    let score = BEST_EFFORT - i32::try_from(share).unwrap_or(BEST_EFFORT);
    score.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}

fn guaranteed(resources: &Resources) -> bool {
    let same = |request: Option<u64>, limit: Option<u64>| limit.is_some() && request == limit;
    same(resources.cpu_request, resources.cpu_limit) && same(resources.memory_request, resources.memory_limit)
}
