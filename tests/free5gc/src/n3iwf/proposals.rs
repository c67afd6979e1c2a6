//! What it takes of an offer.

use ike::{
    crypto::{Encr, EspSuite, IkeSuite, Integ, KeMethod, KeyExchange, Prf},
    wire::{Proposal, Transform, TransformType},
};

/// The first transform of each type that it knows; types it does not know are not there.
pub(super) fn select_ike(proposal: &Proposal) -> Option<(IkeSuite, Proposal)> {
    let first = |kind, good: &dyn Fn(&Transform) -> bool| {
        proposal.of_type(kind).find(|transform| good(transform))
    };
    let cbc = |t: &Transform| matches!(Encr::from_transform(t), Some(Encr::AesCbc(_)));
    let sha = |t: &Transform| {
        matches!(
            Prf::from_transform(t),
            Some(Prf::HmacSha1 | Prf::HmacSha2_256)
        )
    };
    let encr = first(TransformType::ENCR, &cbc)?;
    let prf = first(TransformType::PRF, &sha)?;
    let integ = first(TransformType::INTEG, &known_integ)?;
    let group = first(TransformType::KE, &|t| t.id == KeMethod::Modp2048.id())?;
    if proposal.of_type(TransformType::ESN).next().is_some() {
        return None;
    }
    let suite = IkeSuite {
        encr: Encr::from_transform(encr)?,
        integ: Integ::from_transform(integ),
        prf: Prf::from_transform(prf)?,
        ke: Some(KeyExchange::single(KeMethod::Modp2048)),
    };
    let transforms = [encr, prf, integ, group].map(Clone::clone).to_vec();
    Some((
        suite,
        Proposal {
            transforms,
            ..proposal.clone()
        },
    ))
}

fn known_integ(transform: &Transform) -> bool {
    matches!(
        Integ::from_transform(transform),
        Some(Integ::HmacSha1_96 | Integ::HmacSha2_256_128)
    )
}

/// ESN has to be there, PRF and key exchange not; of what it accepts it makes keys for this alone.
pub(super) fn select_esp(proposal: &Proposal) -> Option<(EspSuite, Proposal)> {
    proposal.esp_spi()?;
    let first = |kind| proposal.of_type(kind).next();
    if first(TransformType::PRF).is_some() || first(TransformType::KE).is_some() {
        return None;
    }
    let encr = first(TransformType::ENCR)?;
    let integ = first(TransformType::INTEG).filter(|t| known_integ(t))?;
    let esn = first(TransformType::ESN).filter(|esn| esn.id <= 1)?;
    let suite = EspSuite {
        encr: Encr::from_transform(encr).filter(|encr| matches!(encr, Encr::AesCbc(_)))?,
        integ: Integ::from_transform(integ),
        esn: esn.id == 1,
    };
    let transforms = [encr, integ, esn].map(Clone::clone).to_vec();
    Some((
        suite,
        Proposal {
            transforms,
            ..proposal.clone()
        },
    ))
}
