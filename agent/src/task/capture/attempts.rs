//! An upload, attempt by attempt: where the controller lost track, it is taken up from there.

use super::{Begun, Fault, Sending, Uploader};
use crate::task::StepLog;
use metalcast_shared::{
    id::Revision,
    transfer::MAX_ATTEMPTS,
    upload::{Survey, UploadPosition},
};
use std::time::Duration;

/// Pause before another attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Has `send` send all from a position on, once for each connection; the revision that it has become.
pub(super) fn run(
    survey: &Survey,
    uploader: &dyn Uploader,
    log: &StepLog<'_>,
    mut send: impl FnMut(UploadPosition, &mut dyn Sending) -> anyhow::Result<()>,
) -> anyhow::Result<Revision> {
    let (mut attempts, mut reached) = (0, UploadPosition::default());
    loop {
        log.check_cancel()?;
        let mut attempt = || {
            let (from, mut sending) = match uploader.begin(survey)? {
                Begun::Saved(revision) => return Ok(revision),
                Begun::From(from, sending) => (from, sending),
            };
            if from != std::mem::replace(&mut reached, from) {
                attempts = 0;
            }
            send(from, &mut *sending)?;
            log.check_cancel()?;
            sending.finish()
        };
        let error = match attempt() {
            Ok(revision) => return Ok(revision),
            Err(error) => error,
        };
        let Some(fault) = error.downcast_ref::<Fault>() else { return Err(error) };
        match fault {
            Fault::Lost => {}
            Fault::Refused { may_retry: false, .. } => return Err(error),
            Fault::Refused { may_retry: true, .. } if attempts + 1 >= MAX_ATTEMPTS => {
                return Err(error.context(format!("{MAX_ATTEMPTS} attempts")));
            }
            Fault::Refused { may_retry: true, reason } => {
                attempts += 1;
                tracing::warn!("the controller does not take it: {reason}; trying again");
            }
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}
