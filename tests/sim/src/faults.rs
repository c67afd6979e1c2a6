//! Faults, when their time has come.

use tracing::debug;
use ue_user::core::ue::Command;

use crate::{
    plan::Fault,
    world::{Due, Violation, World},
};

impl World {
    pub(crate) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        let until = self.now + fault.lasts();
        debug!(at = ?self.now, ?fault, "fault");
        match fault {
            Fault::CutAll(_) => self.network.cut.open(until, ()),
            Fault::CutUe(ue, _) => self.network.cut_ue(ue, until),
            Fault::Rebind(ue) => {
                self.network.rebind(ue);
            }
            Fault::UeCrash(ue, down) => self.ue_crashes(ue, down),
            Fault::N3iwfCrash(down) => self.n3iwf_crashes(down)?,
            Fault::AmfRestart(down) => self.core_crashes(down)?,
            Fault::AmfHangs(time) => {
                self.core.hangs();
                self.after(time, Due::CoreGoesOn);
            }
            Fault::N2Break => self.n2_breaks()?,
            Fault::KmsA(failure, _) => self.kms.failure_a.open(until, failure),
            Fault::KmsB(failure, _) => self.kms.failure_b.open(until, failure),
            Fault::KmsSlow(delay, _) => self.kms_slow.open(until, delay),
            Fault::KeyLoss(_) => self.kms.loss.open(until, ()),
            Fault::KmsRestart => self.kms.restart(),
            Fault::N3iwfPlane(_) => self.n3iwf.plane_refuses.open(until, ()),
            Fault::UePlane(ue, _) => {
                if let Some(host) = self.ues.get_mut(ue) {
                    host.plane_refuses.open(until, ());
                }
            }
            Fault::DiskFull(ue, _) => {
                if let Some(host) = self.ues.get_mut(ue) {
                    host.disk_full.open(until, ());
                }
            }
            Fault::Attach(ue) => self.command(ue, Command::Attach)?,
            Fault::Deregister(ue) => self.command(ue, Command::Deregister)?,
            Fault::Release(ue) => self.command(ue, Command::Release(1))?,
            Fault::Establish(ue) => self.command(ue, Command::Establish(1))?,
            Fault::RekeyIke(ue) => self.command(ue, Command::RekeyIke)?,
            Fault::RekeyChild(ue) => self.command(ue, Command::RekeyChild(None))?,
            Fault::OperatorRelease(ue) => {
                let now = self.now;
                if let Some(gateway) = self.n3iwf.gateway() {
                    let number = gateway.ues(now).get(ue).map(|row| row.ue);
                    if let Some(number) = number {
                        gateway.release(now, number);
                    }
                }
            }
        }
        Ok(())
    }
}
