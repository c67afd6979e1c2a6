//! Proposals in the words of `swanctl.conf`: `aes256gcm16-prfsha384-ecp384-ke1_mlkem768`.
//!
//! ```text
//! list     = proposal *("," proposal)            also "default": see the default lists
//! proposal = keyword *("-" keyword)
//! keyword  = encryption / integrity / prf / method / ("ke" 1-7 "_" (method / "none")) / "esn" / "noesn"
//! ```
//!
//! Several keywords of one kind are a choice, the first the best: a proposal stands for every
//! combination. `ke1_none` as one of the choices makes that additional key exchange optional
//! (RFC 9370, section 2.2.1). Without a PRF keyword the PRF is that of the integrity algorithm.

use super::{
    exchange::{KeyExchange, SLOTS},
    method::KeMethod,
    prf::Prf,
    select::{ChildSuite, EspSuite, IkeSuite, check},
    suite::{AesBits, Encr, Integ, SuiteError},
};

/// Most suites a list may stand for: proposals are numbered with one octet.
const MAX_SUITES: usize = u8::MAX as usize;

/// Strongest first, with ML-KEM where the peer has it; no SHA-1, no CBC before an AEAD.
const DEFAULT_IKE: &str = "aes256gcm16-prfsha384-ecp384-ke1_mlkem1024,\
    aes256gcm16-prfsha384-ecp384-x25519-ke1_mlkem768,\
    aes256gcm16-chacha20poly1305-prfsha384-ecp384-x25519,\
    aes128gcm16-prfsha256-x25519-ecp256,\
    aes256-sha384-ecp384,\
    aes256-aes128-sha256-x25519-ecp256-modp3072-modp2048";

/// The same for ESP. A key exchange is up to the key mode.
const DEFAULT_ESP: &str = "aes256gcm16-chacha20poly1305-aes128gcm16-esn-noesn,\
    aes256-sha384,aes256-aes128-sha256";

/// What a keyword stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Encr(Encr),
    Integ(Integ),
    Prf(Prf),
    Ke(KeMethod),
    /// Additional key exchange: place from 0, and a method or none.
    Additional(usize, Option<KeMethod>),
    Esn(bool),
}

/// Every keyword of `swanctl.conf` for what is built in here.
const WORDS: [(&str, Word); 36] = [
    ("aes128", Word::Encr(Encr::AesCbc(AesBits::B128))),
    ("aes192", Word::Encr(Encr::AesCbc(AesBits::B192))),
    ("aes256", Word::Encr(Encr::AesCbc(AesBits::B256))),
    ("aes128gcm16", Word::Encr(Encr::AesGcm16(AesBits::B128))),
    ("aes192gcm16", Word::Encr(Encr::AesGcm16(AesBits::B192))),
    ("aes256gcm16", Word::Encr(Encr::AesGcm16(AesBits::B256))),
    ("chacha20poly1305", Word::Encr(Encr::ChaCha20Poly1305)),
    ("sha1", Word::Integ(Integ::HmacSha1_96)),
    ("sha256", Word::Integ(Integ::HmacSha2_256_128)),
    ("sha384", Word::Integ(Integ::HmacSha2_384_192)),
    ("sha512", Word::Integ(Integ::HmacSha2_512_256)),
    ("prfsha1", Word::Prf(Prf::HmacSha1)),
    ("prfsha256", Word::Prf(Prf::HmacSha2_256)),
    ("prfsha384", Word::Prf(Prf::HmacSha2_384)),
    ("prfsha512", Word::Prf(Prf::HmacSha2_512)),
    ("modp2048", Word::Ke(KeMethod::Modp2048)),
    ("modp3072", Word::Ke(KeMethod::Modp3072)),
    ("modp4096", Word::Ke(KeMethod::Modp4096)),
    ("ecp256", Word::Ke(KeMethod::Ecp256)),
    ("ecp384", Word::Ke(KeMethod::Ecp384)),
    ("ecp521", Word::Ke(KeMethod::Ecp521)),
    ("x25519", Word::Ke(KeMethod::Curve25519)),
    ("mlkem512", Word::Ke(KeMethod::MlKem512)),
    ("mlkem768", Word::Ke(KeMethod::MlKem768)),
    ("mlkem1024", Word::Ke(KeMethod::MlKem1024)),
    ("esn", Word::Esn(true)),
    ("noesn", Word::Esn(false)),
    // Other spellings, read and never written.
    ("aes128gcm128", Word::Encr(Encr::AesGcm16(AesBits::B128))),
    ("aes192gcm128", Word::Encr(Encr::AesGcm16(AesBits::B192))),
    ("aes256gcm128", Word::Encr(Encr::AesGcm16(AesBits::B256))),
    ("curve25519", Word::Ke(KeMethod::Curve25519)),
    ("sha2_256", Word::Integ(Integ::HmacSha2_256_128)),
    ("aes", Word::Encr(Encr::AesCbc(AesBits::B128))),
    ("sha", Word::Integ(Integ::HmacSha1_96)),
    ("sha2_384", Word::Integ(Integ::HmacSha2_384_192)),
    ("sha2_512", Word::Integ(Integ::HmacSha2_512_256)),
];

/// Keywords of swanctl that are left out on purpose (RFC 8221, RFC 8247).
const REFUSED: [(&str, &str); 15] = [
    ("null", "no encryption at all"),
    ("des", "broken"),
    ("3des", "blocks of 64 bits"),
    ("blowfish", "blocks of 64 bits"),
    ("cast128", "blocks of 64 bits"),
    ("md5", "broken"),
    ("prfmd5", "broken"),
    ("sha256_96", "a truncation that no standard has"),
    ("modp768", "too short"),
    ("modp1024", "too short"),
    ("modp1024s160", "too short, with small subgroups"),
    ("modp1536", "too short"),
    ("modp2048s224", "small subgroups"),
    ("modp2048s256", "small subgroups"),
    ("modpnone", "leave the key exchange away instead"),
];

impl Word {
    fn read(keyword: &str) -> Result<Self, SuiteError> {
        let known = |keyword: &str| WORDS.iter().find(|(name, _)| *name == keyword);
        if let Some((_, word)) = known(keyword) {
            return Ok(*word);
        }
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == keyword) {
            return Err(bad(keyword, why));
        }
        let Some((number, method)) = keyword
            .strip_prefix("ke")
            .and_then(|rest| rest.split_once('_'))
        else {
            return Err(SuiteError::Unknown(keyword.to_owned()));
        };
        let place = number
            .parse::<usize>()
            .ok()
            .filter(|number| number.to_string().len() == keyword.len() - method.len() - 3)
            .and_then(|number| number.checked_sub(1))
            .filter(|place| *place < SLOTS)
            .ok_or_else(|| bad(keyword, "additional key exchanges have the numbers 1 to 7"))?;
        match (method, known(method)) {
            ("none", _) => Ok(Self::Additional(place, None)),
            (_, Some((_, Self::Ke(method)))) => Ok(Self::Additional(place, Some(*method))),
            _ => Err(bad(keyword, "no key exchange method is called this")),
        }
    }

    /// The keyword to write.
    fn write(self) -> String {
        if let Self::Additional(place, method) = self {
            let method =
                method.map_or_else(|| "none".to_owned(), |method| Self::Ke(method).write());
            return format!("ke{}_{method}", place + 1);
        }
        WORDS
            .iter()
            .find(|(_, word)| *word == self)
            .map(|(name, _)| (*name).to_owned())
            .unwrap_or_default()
    }
}

/// The keywords of one proposal by kind, in order.
#[derive(Default)]
struct Choices {
    encr: Vec<Encr>,
    integ: Vec<Integ>,
    prf: Vec<Prf>,
    ke: Vec<KeMethod>,
    additional: [Vec<Option<KeMethod>>; SLOTS],
    esn: Vec<bool>,
}

impl Choices {
    fn read(text: &str, fits: fn(Word) -> Result<(), &'static str>) -> Result<Self, SuiteError> {
        let mut choices = Self::default();
        for keyword in text.split('-') {
            let word = Word::read(keyword)?;
            fits(word).map_err(|why| bad(keyword, why))?;
            let new = match word {
                Word::Encr(encr) => add(&mut choices.encr, encr),
                Word::Integ(integ) => add(&mut choices.integ, integ),
                Word::Prf(prf) => add(&mut choices.prf, prf),
                Word::Ke(method) => add(&mut choices.ke, method),
                Word::Esn(esn) => add(&mut choices.esn, esn),
                Word::Additional(place, method) => choices
                    .additional
                    .get_mut(place)
                    .is_some_and(|slot| add(slot, method)),
            };
            if !new {
                return Err(bad(keyword, "twice in one proposal"));
            }
        }
        if choices.encr.is_empty() {
            return Err(bad(text, "no encryption algorithm"));
        }
        Ok(choices)
    }

    /// Encryption with integrity, each AEAD with none.
    fn protections(&self, text: &str) -> Result<Vec<(Encr, Option<Integ>)>, SuiteError> {
        let mut pairs = Vec::new();
        for encr in &self.encr {
            let integs: Vec<Option<Integ>> = match self.integ.is_empty() {
                true => vec![None],
                false => self.integ.iter().copied().map(Some).collect(),
            };
            for integ in integs {
                check(*encr, integ).map_err(|error| match error {
                    SuiteError::Combination(why) => bad(text, why),
                    other => other,
                })?;
                pairs.push((*encr, integ));
            }
        }
        Ok(pairs)
    }

    /// Every combination of key exchanges; combinations with a method twice are left out.
    fn exchanges(&self, text: &str) -> Result<Vec<Option<KeyExchange>>, SuiteError> {
        let additional = self.additional.iter().any(|slot| !slot.is_empty());
        if self.ke.is_empty() {
            return match additional {
                false => Ok(vec![None]),
                true => Err(bad(text, "an additional key exchange without a first one")),
            };
        }
        let mut made: Vec<KeyExchange> = self.ke.iter().copied().map(Into::into).collect();
        for (number, slot) in (1..).zip(&self.additional) {
            if slot.is_empty() {
                continue;
            }
            made = made
                .iter()
                .flat_map(|ke| {
                    slot.iter().filter_map(move |method| match method {
                        None => Some(*ke),
                        Some(method) => ke.with_additional(number, *method).ok(),
                    })
                })
                .take(MAX_SUITES + 1)
                .collect();
        }
        match made.len() {
            0 => Err(bad(text, "a key exchange method twice in a suite")),
            _ => Ok(made.into_iter().map(Some).collect()),
        }
    }
}

impl IkeSuite {
    /// The suites of a list of proposals in swanctl's words, best first and none of them twice.
    pub fn from_keywords(text: &str) -> Result<Vec<Self>, SuiteError> {
        list(text, DEFAULT_IKE, |text, suites| {
            let choices = Choices::read(text, |word| match word {
                Word::Esn(_) => Err("IKE has no sequence numbers"),
                _ => Ok(()),
            })?;
            let exchanges = choices.exchanges(text)?;
            for (encr, integ) in choices.protections(text)? {
                let prfs = match (choices.prf.as_slice(), integ) {
                    ([], None) => return Err(bad(text, "no pseudorandom function")),
                    ([], Some(integ)) => vec![prf_of(integ)],
                    (prfs, _) => prfs.to_vec(),
                };
                for prf in prfs {
                    for ke in &exchanges {
                        push(
                            suites,
                            Self {
                                encr,
                                integ,
                                prf,
                                ke: *ke,
                            },
                        )?;
                    }
                }
            }
            Ok(())
        })
    }

    /// What is offered and accepted when nothing is configured, strongest first.
    pub fn defaults() -> Vec<Self> {
        Self::from_keywords(DEFAULT_IKE).unwrap_or_default()
    }

    /// This suite as a proposal in swanctl's words.
    pub fn to_keywords(&self) -> String {
        let mut words = vec![Word::Encr(self.encr)];
        words.extend(self.integ.map(Word::Integ));
        if self.integ.map(prf_of) != Some(self.prf) {
            words.push(Word::Prf(self.prf));
        }
        words.extend(exchange_words(self.ke));
        join(&words)
    }
}

impl ChildSuite {
    /// The suites of a list of proposals in swanctl's words, best first and none of them twice.
    pub fn from_keywords(text: &str) -> Result<Vec<Self>, SuiteError> {
        list(text, DEFAULT_ESP, |text, suites| {
            let choices = Choices::read(text, |word| match word {
                Word::Prf(_) => Err("ESP has no pseudorandom function"),
                _ => Ok(()),
            })?;
            let exchanges = choices.exchanges(text)?;
            let numbers = match choices.esn.as_slice() {
                [] => &[false],
                numbers => numbers,
            };
            for (encr, integ) in choices.protections(text)? {
                for ke in &exchanges {
                    for esn in numbers {
                        let esp = EspSuite {
                            encr,
                            integ,
                            esn: *esn,
                        };
                        push(suites, Self { esp, ke: *ke })?;
                    }
                }
            }
            Ok(())
        })
    }

    /// What is offered and accepted when nothing is configured, strongest first.
    pub fn defaults() -> Vec<Self> {
        Self::from_keywords(DEFAULT_ESP).unwrap_or_default()
    }

    /// This suite as a proposal in swanctl's words.
    pub fn to_keywords(&self) -> String {
        let mut words = vec![Word::Encr(self.esp.encr)];
        words.extend(self.esp.integ.map(Word::Integ));
        words.extend(exchange_words(self.ke));
        if self.esp.esn {
            words.push(Word::Esn(true));
        }
        join(&words)
    }
}

/// Whether this is in swanctl's words rather than in those of its status, which are capitals.
pub(super) fn is_keywords(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_ascii_uppercase())
}

/// The one suite of a list.
pub(super) fn only<S>(suites: Vec<S>) -> Result<S, SuiteError> {
    let mut suites = suites.into_iter();
    match (suites.next(), suites.next()) {
        (Some(suite), None) => Ok(suite),
        _ => Err(SuiteError::Combination("a choice where one suite belongs")),
    }
}

fn list<S: PartialEq>(
    text: &str,
    default: &str,
    read: impl Fn(&str, &mut Vec<S>) -> Result<(), SuiteError>,
) -> Result<Vec<S>, SuiteError> {
    let mut suites = Vec::new();
    for proposal in text.split(',').map(str::trim) {
        match proposal {
            "default" => {
                for proposal in default.split(',') {
                    read(proposal, &mut suites)?;
                }
            }
            _ => read(proposal, &mut suites)?,
        }
    }
    Ok(suites)
}

fn push<S: PartialEq>(suites: &mut Vec<S>, suite: S) -> Result<(), SuiteError> {
    if suites.contains(&suite) {
        return Ok(());
    }
    if suites.len() == MAX_SUITES {
        return Err(SuiteError::Combination("more than 255 suites"));
    }
    suites.push(suite);
    Ok(())
}

/// Whether the item was not there before.
fn add<T: PartialEq>(items: &mut Vec<T>, item: T) -> bool {
    let new = !items.contains(&item);
    if new {
        items.push(item);
    }
    new
}

fn bad(keyword: &str, why: &'static str) -> SuiteError {
    SuiteError::Keyword {
        keyword: keyword.to_owned(),
        why,
    }
}

const fn prf_of(integ: Integ) -> Prf {
    match integ {
        Integ::HmacSha1_96 => Prf::HmacSha1,
        Integ::HmacSha2_256_128 => Prf::HmacSha2_256,
        Integ::HmacSha2_384_192 => Prf::HmacSha2_384,
        Integ::HmacSha2_512_256 => Prf::HmacSha2_512,
    }
}

fn exchange_words(ke: Option<KeyExchange>) -> Vec<Word> {
    ke.map_or_else(Vec::new, |ke| {
        std::iter::once(Word::Ke(ke.first()))
            .chain(
                ke.numbered()
                    .map(|(number, method)| Word::Additional(number - 1, Some(method))),
            )
            .collect()
    })
}

fn join(words: &[Word]) -> String {
    let words: Vec<String> = words.iter().map(|word| word.write()).collect();
    words.join("-")
}
