//! Leases of the upstream read, as schedulers give and take them: pure. Whether one is used is decided
//! by the task.

use darner_proto::id::{HostId, TaskId};
use darner_proto::scheduler::{Lease, LeaseClaim, NodeMessage, ReturnReason};

use super::{Output, Sessions, TaskEvent};

/// Leases for tasks that are just beginning. A node begins as many at once as its disk bears.
const MAX_BEGINNING: usize = 1024;

impl Sessions {
    pub(super) fn lease(&mut self, scheduler: HostId, lease: Lease, out: &mut Vec<Output>) {
        let claim = LeaseClaim {
            lease: lease.lease,
            ranges: lease.ranges.clone(),
        };
        let Some(registration) = self.tasks.get_mut(&lease.task) else {
            // An invitation is no claim.
            if !claim.ranges.is_empty() && self.beginning.len() < MAX_BEGINNING {
                self.beginning.insert(lease.task, (scheduler, claim));
            }
            return out.push(Output::Begin(lease));
        };
        if claim.ranges.is_empty() {
            return;
        }
        if registration.scheduler.as_ref() == Some(&scheduler) {
            registration.join.lease = Some(claim);
            out.push(Output::Notify(lease.task, TaskEvent::Lease(lease)));
        } else {
            registration.attend_also(scheduler, claim, out);
        }
    }

    pub(super) fn revoked(
        &mut self,
        scheduler: &HostId,
        task: TaskId,
        lease: u64,
        out: &mut Vec<Output>,
    ) {
        let Some(registration) = self.tasks.get_mut(&task) else {
            return;
        };
        if registration.scheduler.as_ref() != Some(scheduler) {
            // It is still told of what comes.
            return;
        }
        let claim = registration.join.lease.as_ref();
        if claim.is_some_and(|claim| claim.lease == lease) {
            registration.join.lease = None;
        }
        out.push(Output::Notify(task, TaskEvent::LeaseRevoked(lease)));
    }

    /// A lease can come back for a task that could not even begin: then its owner is told.
    pub(super) fn lease_return(
        &mut self,
        task: TaskId,
        lease: u64,
        reason: ReturnReason,
        out: &mut Vec<Output>,
    ) {
        let returned = NodeMessage::LeaseReturn {
            task,
            lease,
            reason,
        };
        let scheduler = match self.tasks.get_mut(&task) {
            Some(registration) => {
                registration.join.lease = None;
                registration.scheduler.clone()
            }
            None => self.beginning.remove(&task).map(|(scheduler, _)| scheduler),
        };
        out.extend(scheduler.map(|scheduler| Output::Send(scheduler, returned)));
    }
}
