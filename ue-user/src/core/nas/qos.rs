//! The authorized QoS rules of a PDU session (TS 24.501, 6.2.5.1 and 9.11.4.13).

use dataplane::relay::{Component, PacketFilter, UplinkRule, UplinkRules};
use oxirush_nas::nas_5gs::{
    GsmCause, NasQosRules, QosPacketFilter, QosPacketFilterComponent, QosPacketFilterDirection,
    QosRule, QosRuleOpCode,
};

/// The rules, in the order in which the network made them. One is the default rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QosRules(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    identifier: u8,
    default: bool,
    precedence: u8,
    qfi: u8,
    filters: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    identifier: u8,
    /// `None`: for downlink packets alone.
    uplink: Option<PacketFilter>,
}

/// The 5GSM cause, and what is wrong in words.
pub(super) type Refusal = (GsmCause, &'static str);

const fn semantic(why: &'static str) -> Refusal {
    (GsmCause::SemanticErrorInTheQosOperation, why)
}

impl QosRules {
    /// Those of an accept: rules that are created, and a default rule among them.
    ///
    /// # Errors
    /// The 5GSM cause, and what is wrong in words.
    pub fn established(rules: &NasQosRules) -> Result<Self, Refusal> {
        let mut all = Self::default();
        for rule in rules.parse_rules() {
            let rule = readable(rule.ok())?;
            if rule.op_code != QosRuleOpCode::Create {
                return Err(semantic("a QoS rule is changed before there is one"));
            }
            if all.find(rule.rule_id).is_some() || (rule.dqr && all.default_qfi() != 0) {
                return Err(semantic("the QoS rules contradict each other"));
            }
            all.0.push(created(&rule)?);
        }
        if all.default_qfi() == 0 {
            return Err(semantic("no default QoS rule"));
        }
        Ok(all)
    }

    /// After the operations of a PDU SESSION MODIFICATION COMMAND (TS 24.501, 6.3.2.4): all or none.
    ///
    /// # Errors
    /// The 5GSM cause, and what is wrong in words.
    pub fn modified(&self, rules: &NasQosRules) -> Result<Self, Refusal> {
        let mut all = self.clone();
        for rule in rules.parse_rules() {
            all.apply(&readable(rule.ok())?)?;
        }
        if all.default_qfi() == 0 {
            return Err(semantic("no default QoS rule would be left"));
        }
        Ok(all)
    }

    fn apply(&mut self, change: &QosRule) -> Result<(), Refusal> {
        match change.op_code {
            QosRuleOpCode::Create => {
                // One that is there is replaced.
                let rule = created(change)?;
                let others = self.0.iter().filter(|o| o.identifier != rule.identifier);
                if rule.default && others.into_iter().any(|other| other.default) {
                    return Err(semantic("a second default QoS rule"));
                }
                match self.find(rule.identifier) {
                    Some(old) => *old = rule,
                    None => self.0.push(rule),
                }
            }
            // One that is not there is deleted already.
            QosRuleOpCode::Delete => self.0.retain(|rule| rule.identifier != change.rule_id),
            operation => {
                let rule = self
                    .find(change.rule_id)
                    .ok_or(semantic("no such QoS rule to modify"))?;
                match operation {
                    QosRuleOpCode::ModifyAdd => {
                        for filter in filters(change)? {
                            rule.filters.retain(|f| f.identifier != filter.identifier);
                            rule.filters.push(filter);
                        }
                    }
                    QosRuleOpCode::ModifyReplace => rule.filters = filters(change)?,
                    QosRuleOpCode::ModifyDelete => {
                        for filter in &change.packet_filters {
                            let identifier = match filter {
                                QosPacketFilter::Delete { identifier }
                                | QosPacketFilter::Match { identifier, .. } => *identifier,
                            };
                            rule.filters.retain(|f| f.identifier != identifier);
                        }
                        if rule.filters.is_empty() {
                            return Err(semantic("a QoS rule would be left without filters"));
                        }
                    }
                    QosRuleOpCode::ModifyNoFilters => {}
                    _ => return Err(semantic("a QoS rule operation that is reserved")),
                }
                if change.qfi.is_some() {
                    rule.qfi = qfi(change)?;
                }
                rule.precedence = change.precedence.unwrap_or(rule.precedence);
            }
        }
        Ok(())
    }

    fn find(&mut self, identifier: u8) -> Option<&mut Rule> {
        self.0.iter_mut().find(|rule| rule.identifier == identifier)
    }

    /// QFIs, in the order of the rules, each once.
    pub fn qfis(&self) -> Vec<u8> {
        let mut qfis = Vec::new();
        for rule in &self.0 {
            if !qfis.contains(&rule.qfi) {
                qfis.push(rule.qfi);
            }
        }
        qfis
    }

    /// QFI of the default rule.
    pub fn default_qfi(&self) -> u8 {
        let default = self.0.iter().find(|rule| rule.default);
        default.map_or(0, |rule| rule.qfi)
    }

    /// As the relay needs them.
    pub fn uplink(&self) -> UplinkRules {
        let rules = self.0.iter().map(|rule| UplinkRule {
            precedence: rule.precedence,
            qfi: rule.qfi,
            filters: rule
                .filters
                .iter()
                .filter_map(|f| f.uplink.clone())
                .collect(),
        });
        UplinkRules::new(rules.collect())
    }
}

fn readable(rule: Option<QosRule>) -> Result<QosRule, Refusal> {
    let cause = GsmCause::SyntacticalErrorInTheQosOperation;
    rule.ok_or((cause, "a QoS rule cannot be read"))
}

fn qfi(rule: &QosRule) -> Result<u8, Refusal> {
    rule.qfi
        .filter(|qfi| (1..=63).contains(qfi))
        .ok_or(semantic("a QoS rule without a QFI of 1 to 63"))
}

fn created(rule: &QosRule) -> Result<Rule, Refusal> {
    Ok(Rule {
        identifier: rule.rule_id,
        default: rule.dqr,
        precedence: rule.precedence.unwrap_or(u8::MAX),
        qfi: qfi(rule)?,
        filters: filters(rule)?,
    })
}

fn filters(rule: &QosRule) -> Result<Vec<Filter>, Refusal> {
    let read = |filter: &QosPacketFilter| match filter {
        QosPacketFilter::Match {
            direction,
            identifier,
            components,
        } => {
            let components: Option<PacketFilter> = components.iter().map(component).collect();
            let cause = GsmCause::SyntacticalErrorInPacketFilters;
            let components = components.ok_or((cause, "a packet filter that no IP packet fits"))?;
            let uplink = *direction != QosPacketFilterDirection::Downlink;
            Ok(Filter {
                identifier: *identifier,
                uplink: uplink.then_some(components),
            })
        }
        QosPacketFilter::Delete { .. } => Err(semantic("a packet filter without contents")),
    };
    rule.packet_filters.iter().map(read).collect()
}

/// `None`: of Ethernet, or unknown.
fn component(component: &QosPacketFilterComponent) -> Option<Component> {
    use QosPacketFilterComponent as C;
    Some(match component {
        C::MatchAll => Component::Any,
        C::Ipv4RemoteAddress { address, mask } => Component::RemoteIpv4(*address, *mask),
        C::Ipv4LocalAddress { address, mask } => Component::LocalIpv4(*address, *mask),
        C::Ipv6RemoteAddressPrefix {
            address,
            prefix_length,
        } => Component::RemoteIpv6(*address, *prefix_length),
        C::Ipv6LocalAddressPrefix {
            address,
            prefix_length,
        } => Component::LocalIpv6(*address, *prefix_length),
        C::ProtocolIdentifierOrNextHeader(protocol) => Component::Protocol(*protocol),
        C::SingleLocalPort(port) => Component::LocalPort(*port..=*port),
        C::LocalPortRange { low, high } => Component::LocalPort(*low..=*high),
        C::SingleRemotePort(port) => Component::RemotePort(*port..=*port),
        C::RemotePortRange { low, high } => Component::RemotePort(*low..=*high),
        C::SecurityParameterIndex(spi) => Component::Spi(*spi),
        C::TypeOfServiceOrTrafficClass { value, mask } => Component::TrafficClass(*value, *mask),
        C::FlowLabel([high, middle, low]) => {
            Component::FlowLabel(u32::from_be_bytes([0, high & 0x0f, *middle, *low]))
        }
        _ => return None,
    })
}
