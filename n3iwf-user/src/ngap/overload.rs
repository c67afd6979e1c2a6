//! OVERLOAD START, OVERLOAD STOP and AMF STATUS INDICATION (TS 38.413, 8.7.6 to 8.7.8).

use std::fmt;

use nwu::{AnParameters, EstablishmentCause, Guami, Plmn, SNssai};
use oxirush_ngap::{
    Error, extract_ngap_ies,
    ngap::{
        GUAMI, GUAMIList, NGAPPDU, OverloadAction, OverloadResponse, OverloadStartNSSAIList,
        SNSSAI, UnavailableGUAMIList,
    },
};

use super::{
    AmfMessage,
    decode::{plmn, printable},
};

/// OVERLOAD START: what an AMF wants less of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overload {
    /// For every UE.
    pub general: Restraint,
    /// For UEs that request nothing but these slices, on top of that.
    pub slices: Vec<(Vec<SNssai>, Restraint)>,
    /// The GUAMIs it is about; empty: all of the AMF.
    pub guamis: Vec<Guami>,
}

/// Which attaches, and how many of them (9.3.1.105 and 9.3.1.106).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restraint {
    /// Overload Action; without one, what is neither an emergency nor of high priority is meant.
    pub action: Option<Action>,
    /// Traffic Load Reduction Indication, 1 to 99 %: the share to be turned away. `None`: all, if an action
    /// says of what.
    pub percent: Option<u8>,
}

/// Overload Action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mobile originated data is rejected, emergencies are not.
    RejectMoData,
    /// Mobile originated data and signalling are rejected.
    RejectSignalling,
    /// Nothing but emergency sessions (and what the network began) is permitted.
    EmergencyOnly,
    /// Nothing but high priority sessions (and what the network began) is permitted.
    HighPriorityOnly,
}

impl Action {
    const fn hits(self, cause: EstablishmentCause) -> bool {
        use EstablishmentCause as C;
        match self {
            Self::RejectMoData => matches!(cause, C::MoData),
            Self::RejectSignalling => matches!(cause, C::MoData | C::MoSignalling),
            Self::EmergencyOnly => !matches!(cause, C::Emergency),
            // An emergency is not turned away because others may be (TS 23.501, 5.16.4.1).
            Self::HighPriorityOnly => matches!(cause, C::MoData | C::MoSignalling),
        }
    }
}

impl Restraint {
    /// The percentage of attaches with this cause that is to be turned away.
    #[must_use]
    pub const fn share(&self, cause: EstablishmentCause) -> u8 {
        let hit = match (self.action, self.percent) {
            (None, None) => return 0,
            (None, Some(_)) => Action::RejectSignalling.hits(cause),
            (Some(action), _) => action.hits(cause),
        };
        match (hit, self.percent) {
            (false, _) => 0,
            (true, Some(percent)) => percent,
            (true, None) => 100,
        }
    }
}

impl Overload {
    /// The percentage of UEs like this one that is to be turned away: the largest that applies.
    #[must_use]
    pub fn share(&self, ue: &AnParameters) -> u8 {
        let meant = self.guamis.is_empty()
            || match (&ue.guami, &ue.selected_plmn) {
                (Some(guami), _) => self.guamis.contains(guami),
                (None, Some(plmn)) => self.guamis.iter().any(|guami| guami.plmn == *plmn),
                (None, None) => true,
            };
        if !meant {
            return 0;
        }
        // Undefined codes are MO data, and so is a UE that does not say (TS 24.502, 9.2.2).
        let cause = ue.establishment_cause.unwrap_or(EstablishmentCause::MoData);
        let sliced = self.slices.iter().filter(|(slices, _)| {
            !ue.requested_nssai.is_empty()
                && ue
                    .requested_nssai
                    .iter()
                    .all(|slice| slices.contains(slice))
        });
        sliced
            .map(|(_, restraint)| restraint.share(cause))
            .chain([self.general.share(cause)])
            .max()
            .unwrap_or(0)
    }

    /// Whether every ordinary attach is turned away, whoever begins it.
    #[must_use]
    pub fn is_total(&self) -> bool {
        let all = |cause| self.general.share(cause) == 100;
        self.guamis.is_empty()
            && all(EstablishmentCause::MoSignalling)
            && all(EstablishmentCause::MoData)
    }
}

impl fmt::Display for Restraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.action, self.percent) {
            (None, None) => "nothing said",
            (None, Some(_)) => "fewer attaches",
            (Some(Action::RejectMoData), _) => "no MO data",
            (Some(Action::RejectSignalling), _) => "no MO data and signalling",
            (Some(Action::EmergencyOnly), _) => "emergencies only",
            (Some(Action::HighPriorityOnly), _) => "high priority only",
        })?;
        match self.percent {
            Some(percent) => write!(f, ", {percent} % less"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.general)?;
        for (slices, restraint) in &self.slices {
            write!(f, "; {} slices: {restraint}", slices.len())?;
        }
        match self.guamis.len() {
            0 => Ok(()),
            some => write!(f, "; for {some} GUAMIs"),
        }
    }
}

/// A GUAMI that goes out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Which.
    pub guami: Guami,
    /// Name of the AMF that takes its UEs.
    pub backup: Option<String>,
}

pub(super) fn overload_start(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    extract_ngap_ies!(pdu, OverloadStart,
        opt response: OverloadResponse = AMFOverloadResponse(response) => response,
        lax percent: u8 = AMFTrafficLoadReductionIndication(percent) => percent.0,
        lax slices: OverloadStartNSSAIList = OverloadStartNSSAIList(list) => list,
        lax guamis: Vec<Guami> = GUAMIList(list) => read_list(&list),
    );
    let slices = slices.into_iter().flat_map(|list| list.0).map(|item| {
        let slices = item.slice_overload_list.0.iter();
        let percent = item.slice_traffic_load_reduction_indication;
        let restraint = Restraint {
            action: item.slice_overload_response.as_ref().and_then(action),
            percent: percent.map(|percent| percent.0),
        };
        (
            slices.map(|slice| slice_of(&slice.s_nssai)).collect(),
            restraint,
        )
    });
    Ok(AmfMessage::OverloadStart(Overload {
        slices: slices.collect(),
        general: Restraint {
            action: response.as_ref().and_then(action),
            percent,
        },
        guamis: guamis.unwrap_or_default(),
    }))
}

pub(super) fn overload_stop(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    extract_ngap_ies!(pdu, OverloadStop,
        lax guamis: Vec<Guami> = GUAMIList(list) => read_list(&list),
    );
    Ok(AmfMessage::OverloadStop(guamis.unwrap_or_default()))
}

pub(super) fn status_indication(pdu: &NGAPPDU<'_>) -> Result<AmfMessage, Error> {
    extract_ngap_ies!(pdu, AMFStatusIndication,
        req list: UnavailableGUAMIList = UnavailableGUAMIList(list) => list,
    );
    let withdrawn = list.0.iter().filter_map(|item| {
        Some(Withdrawn {
            guami: guami(&item.guami)?,
            backup: item.backup_amf_name.as_ref().map(|name| printable(&name.0)),
        })
    });
    Ok(AmfMessage::Withdrawn(withdrawn.collect()))
}

fn action(response: &OverloadResponse) -> Option<Action> {
    let OverloadResponse::overloadAction(action) = response else {
        return None;
    };
    Some(match action {
        OverloadAction::reject_non_emergency_mo_dt => Action::RejectMoData,
        OverloadAction::reject_rrc_cr_signalling => Action::RejectSignalling,
        OverloadAction::permit_emergency_sessions_and_mobile_terminated_services_only => {
            Action::EmergencyOnly
        }
        OverloadAction::permit_high_priority_sessions_and_mobile_terminated_services_only => {
            Action::HighPriorityOnly
        }
        _ => return None,
    })
}

fn slice_of(slice: &SNSSAI) -> SNssai {
    let [sst] = slice.sst.0;
    SNssai {
        sst,
        sd: slice.sd.as_ref().map(|sd| sd.0),
    }
}

fn read_list(list: &GUAMIList) -> Vec<Guami> {
    list.0
        .iter()
        .filter_map(|item| guami(&item.guami))
        .collect()
}

pub(super) fn guami(guami: &GUAMI) -> Option<Guami> {
    Some(Guami {
        plmn: read_plmn(guami)?,
        region: u8::try_from(guami.amf_region_id.0.value()).ok()?,
        set: u16::try_from(guami.amf_set_id.0.value()).ok()?,
        pointer: u8::try_from(guami.amf_pointer.0.value()).ok()?,
    })
}

fn read_plmn(guami: &GUAMI) -> Option<Plmn> {
    plmn(&guami.plmn_identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSES: [EstablishmentCause; 4] = [
        EstablishmentCause::Emergency,
        EstablishmentCause::HighPriorityAccess,
        EstablishmentCause::MoSignalling,
        EstablishmentCause::MoData,
    ];

    #[test]
    fn each_action_turns_away_what_it_says_and_no_emergency() {
        let shares = |action, percent| {
            let restraint = Restraint { action, percent };
            CAUSES.map(|cause| restraint.share(cause))
        };
        assert_eq!(shares(None, None), [0; 4]);
        assert_eq!(shares(None, Some(20)), [0, 0, 20, 20]);
        assert_eq!(shares(Some(Action::RejectMoData), None), [0, 0, 0, 100]);
        assert_eq!(
            shares(Some(Action::RejectSignalling), Some(7)),
            [0, 0, 7, 7]
        );
        assert_eq!(
            shares(Some(Action::EmergencyOnly), None),
            [0, 100, 100, 100]
        );
        assert_eq!(
            shares(Some(Action::HighPriorityOnly), None),
            [0, 0, 100, 100]
        );
    }

    #[test]
    fn slices_and_guamis_narrow_it() {
        let plmn = Plmn::from_digits("208", "93").unwrap();
        let guami = |pointer| Guami {
            plmn,
            region: 1,
            set: 1,
            pointer,
        };
        let slice = |sst| SNssai { sst, sd: None };
        let overload = Overload {
            slices: vec![(
                vec![slice(1), slice(2)],
                Restraint {
                    action: Some(Action::RejectSignalling),
                    percent: None,
                },
            )],
            guamis: vec![guami(0)],
            ..Overload::default()
        };
        let share = |pointer, slices: &[u8]| {
            overload.share(&AnParameters {
                guami: Some(guami(pointer)),
                requested_nssai: slices.iter().map(|sst| slice(*sst)).collect(),
                ..AnParameters::default()
            })
        };
        assert_eq!(share(0, &[2]), 100);
        assert_eq!(share(0, &[2, 3]), 0, "another slice besides");
        assert_eq!(share(0, &[]), 0, "no slice named");
        assert_eq!(share(1, &[2]), 0, "another GUAMI");
        assert!(!overload.is_total());
    }
}
