//! tar archives: into a filesystem that is named, and not without something to start.

use super::rig::{Machine, Rig};
use crate::service::{
    Refusal,
    view::{DeployRequest, GrowRequest, TargetView},
};
use metalcast_shared::fresh::{Fresh, FreshKind};

fn refused(answer: Result<crate::service::view::DeployAnswer, Refusal>, why: &str) {
    let refusal = answer.expect_err(why).to_string();
    assert!(refusal.contains(why), "{refusal}");
}

#[tokio::test]
async fn an_archive_goes_into_a_filesystem_that_is_made_for_it() {
    let rig = Rig::new().await;
    let _agent = rig.approved(&Machine::new(1)).await;
    let xfs = |request: &mut DeployRequest| {
        (request.fs, request.dry_run) = (Some(FreshKind::Xfs), true);
        request.label = Some("system".parse().unwrap());
    };
    refused(rig.deploy_with("node1", xfs).await, "--fs and --label are for tar archives");
    *rig.catalog.filesystem.lock().unwrap() = Some("tar");
    refused(rig.deploy_with("node1", xfs).await, "neither a menu of GRUB nor a kernel");
    rig.catalog.index.lock().unwrap().kernels.push("vmlinuz-6.1".into());
    let plan = rig.deploy_with("node1", xfs).await.unwrap().plan;
    let TargetView::Slot { fresh, .. } = plan.target else { panic!("{plan:?}") };
    let label = Some("system".parse().unwrap());
    assert_eq!(fresh, Some(Fresh { kind: FreshKind::Xfs, label }));
    let usual = |request: &mut DeployRequest| {
        (request.dry_run, request.grow) = (true, Some(GrowRequest::default()));
    };
    let plan = rig.deploy_with("node1", usual).await.unwrap().plan;
    let TargetView::Slot { fresh, .. } = plan.target else { panic!("{plan:?}") };
    assert_eq!(fresh, Some(Fresh::default()), "ext4 unless it is said");
    assert_eq!(plan.nodes[0].grow, [], "what is made takes all of the slot anyway");
}
