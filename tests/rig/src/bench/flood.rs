//! Attaches in a flood of strangers.

use crate::files::Profile;
use crate::report::{Finding, Report};
use crate::scenarios::{self, FloodOptions, Setting};

/// Time of attaches in quiet and in the flood, keys, memory and processors: in the report.
#[must_use]
pub fn flood(setting: &Setting, options: FloodOptions) -> Report {
    let mut report = setting.report("flood");
    let world = report.step_with("the network is built", || {
        let world = setting.world("flood", Profile::Native)?;
        Ok((Finding::new("six namespaces"), world))
    });
    if let Some(mut world) = world {
        scenarios::flood(&mut report, &mut world, options);
    }
    report
}
