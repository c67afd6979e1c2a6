//! Interfaces, addresses and routes over rtnetlink.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoXfrm, LinkAttribute,
        LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
    tc::{TcHandle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    Error,
    netlink::{Mode, Netlink},
};

/// Whose a route or address is: `proto` in the output of `ip route` and `ip address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Made by the kernel data plane.
    Kernel,
    /// Made by the recording data plane, on interfaces it does not own.
    Recording,
}

impl Maker {
    /// Free in the kernel's list and in iproute2's.
    const fn protocol(self) -> u8 {
        match self {
            Self::Kernel => 78,
            Self::Recording => 79,
        }
    }
}

/// What matters of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    /// `ip link set alias`: our owner marker.
    pub(crate) alias: Option<String>,
    /// Whether packets on it start with an Ethernet header.
    pub(crate) ethernet: bool,
    /// XFRM interface ID, when it is an XFRM interface.
    pub(crate) if_id: Option<u32>,
}

/// A route of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    pub(crate) via: Option<IpAddr>,
    pub(crate) link: u32,
    pub(crate) source: Option<IpAddr>,
    pub(crate) metric: u32,
}

/// rtnetlink, as far as the data plane needs it.
pub(crate) struct Links(Netlink);

impl Links {
    pub(crate) fn open() -> Result<Self, Error> {
        Netlink::open(NETLINK_ROUTE)
            .map(Self)
            .map_err(|e| Error::io("open rtnetlink", e))
    }

    /// All interfaces of the namespace.
    pub(crate) fn list(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        self.0.request(
            "list interfaces",
            Mode::Dump,
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            |answer| {
                if let RouteNetlinkMessage::NewLink(message) = answer {
                    links.push(describe(message));
                }
            },
        )?;
        Ok(links)
    }

    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, Error> {
        Ok(self.list()?.into_iter().find(|link| link.name == name))
    }

    /// Index of the interface of that name, or an error that names it.
    pub(crate) fn index(&mut self, name: &str) -> Result<u32, Error> {
        self.get(name).map(|link| link.index)
    }

    /// The interface of that name, or an error that names it.
    pub(crate) fn get(&mut self, name: &str) -> Result<Link, Error> {
        self.find(name)?
            .ok_or_else(|| Error::io(format!("interface {name}"), io::ErrorKind::NotFound.into()))
    }

    /// Makes an XFRM interface, down, marked with `alias`.
    pub(crate) fn create_xfrm(
        &mut self,
        name: &str,
        if_id: u32,
        mtu: u32,
        alias: &str,
    ) -> Result<u32, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Xfrm),
                LinkInfo::Data(InfoData::Xfrm(vec![InfoXfrm::IfId(if_id)])),
            ]),
        ];
        let foreign = || {
            Error::Foreign(format!(
                "an interface called {name} or an XFRM interface with if_id {if_id}"
            ))
        };
        // What is there of this name afterwards is ours, whatever was answered.
        if self.find(name)?.is_some() {
            return Err(foreign());
        }
        let doing = format!("create XFRM interface {name} with if_id {if_id}");
        let made = self.0.request(
            &doing,
            Mode::Create,
            RouteNetlinkMessage::NewLink(message),
            |_| {},
        );
        match made {
            Err(Error::Kernel { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                return Err(Error::Unsupported {
                    what: "XFRM interfaces",
                    hint: "load the module xfrm_interface (Linux 4.19 and later)",
                });
            }
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                return Err(foreign());
            }
            Err(error) => {
                if error.is_in_doubt() {
                    self.remove(name)?;
                }
                return Err(error);
            }
            Ok(()) => {}
        }
        let marked = self.mark(name, alias);
        if marked.is_err() {
            // Without the mark nobody would take it for ours again.
            self.remove(name)?;
        }
        marked
    }

    /// The kernel takes no alias while it creates.
    fn mark(&mut self, name: &str, alias: &str) -> Result<u32, Error> {
        let index = self.index(name)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.0.request(
            &format!("mark interface {name}"),
            Mode::Plain,
            RouteNetlinkMessage::SetLink(message),
            |_| {},
        )?;
        Ok(index)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.0.request(
            &format!("set interface {index} up"),
            Mode::Plain,
            RouteNetlinkMessage::SetLink(message),
            |_| {},
        )
    }

    /// The kernel makes no link-local address of its own for the interface.
    pub(crate) fn no_link_local(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let family = AfSpecUnspec::Inet6(vec![mode]);
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![family])];
        self.0.request(
            &format!("choose IPv6 addresses of interface {index}"),
            Mode::Plain,
            RouteNetlinkMessage::SetLink(message),
            |_| {},
        )
    }

    /// One that is not there is fine.
    pub(crate) fn delete(&mut self, link: &Link) -> Result<(), Error> {
        let message = || {
            let mut message = LinkMessage::default();
            message.header.index = link.index;
            RouteNetlinkMessage::DelLink(message)
        };
        let doing = format!("delete interface {}", link.name);
        self.0.take_away(&doing, message).map(drop)
    }

    /// The same by its name.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), Error> {
        match self.find(name)? {
            Some(link) => self.delete(&link),
            None => Ok(()),
        }
    }

    /// Adds `address` as a host address.
    pub(crate) fn add_address(&mut self, link: u32, address: IpAddr) -> Result<(), Error> {
        self.add_address_by(link, address, Maker::Kernel)
    }

    /// [`Self::add_address`] with the mark of `maker`.
    pub(crate) fn add_address_by(
        &mut self,
        link: u32,
        address: IpAddr,
        maker: Maker,
    ) -> Result<(), Error> {
        let mut message = address_message(link, address);
        // IPv6: no wait for duplicate address detection, nobody else is on the link.
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Protocol(maker.protocol().into()));
        self.0.request(
            &format!("add address {address}"),
            Mode::Create,
            RouteNetlinkMessage::NewAddress(message),
            |_| {},
        )
    }

    /// One that is not there is fine.
    pub(crate) fn delete_address(&mut self, link: u32, address: IpAddr) -> Result<(), Error> {
        let message = || RouteNetlinkMessage::DelAddress(address_message(link, address));
        let doing = format!("delete address {address}");
        self.0.take_away(&doing, message).map(drop)
    }

    /// Addresses that `maker` put on any interface, with its index.
    pub(crate) fn addresses(&mut self, maker: Maker) -> Result<Vec<(u32, IpAddr)>, Error> {
        let mut found = Vec::new();
        self.0.request(
            "list addresses",
            Mode::Dump,
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            |answer| {
                if let RouteNetlinkMessage::NewAddress(message) = answer
                    && message.attributes.iter().any(|a| {
                        matches!(a, AddressAttribute::Protocol(p)
                                 if u8::from(*p) == maker.protocol())
                    })
                {
                    found.extend(message.attributes.iter().find_map(|a| match a {
                        AddressAttribute::Address(address) => {
                            Some((message.header.index, *address))
                        }
                        _ => None,
                    }));
                }
            },
        )?;
        Ok(found)
    }

    pub(crate) fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        self.add_route_by(route, Maker::Kernel)
    }

    /// [`Self::add_route`] with the mark of `maker`.
    pub(crate) fn add_route_by(&mut self, route: &Route, maker: Maker) -> Result<(), Error> {
        self.0.request(
            &format!("add route to {}", route.destination),
            Mode::Replace,
            RouteNetlinkMessage::NewRoute(route_message(route, maker)),
            |_| {},
        )
    }

    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        self.delete_route_by(route, Maker::Kernel)
    }

    /// [`Self::delete_route`] of a route that `maker` made.
    pub(crate) fn delete_route_by(&mut self, route: &Route, maker: Maker) -> Result<(), Error> {
        let message = || RouteNetlinkMessage::DelRoute(route_message(route, maker));
        let doing = format!("delete route to {}", route.destination);
        self.0.take_away(&doing, message).map(drop)
    }

    /// Routes of `maker` in the main table.
    pub(crate) fn routes(&mut self, maker: Maker) -> Result<Vec<Route>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            self.0.request(
                "list routes",
                Mode::Dump,
                RouteNetlinkMessage::GetRoute(message),
                |answer| {
                    if let RouteNetlinkMessage::NewRoute(message) = answer
                        && u8::from(message.header.protocol) == maker.protocol()
                        && message.header.table == RouteHeader::RT_TABLE_MAIN
                    {
                        found.extend(read_route(message));
                    }
                },
            )?;
        }
        Ok(found)
    }

    /// The interface and gateway by which the kernel reaches `address`.
    pub(crate) fn route_to(&mut self, address: IpAddr) -> Result<(u32, Option<IpAddr>), Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = host_prefix(address);
        message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address))];
        let mut found = None;
        self.0.request(
            &format!("find the route to {address}"),
            Mode::Plain,
            RouteNetlinkMessage::GetRoute(message),
            |answer| {
                if let RouteNetlinkMessage::NewRoute(message) = answer {
                    found = read_route(message);
                }
            },
        )?;
        found.map(|route| (route.link, route.via)).ok_or_else(|| {
            Error::io(
                format!("find the route to {address}"),
                io::ErrorKind::HostUnreachable.into(),
            )
        })
    }

    /// Whether any filter hangs on the clsact qdisc of an interface.
    pub(crate) fn has_filters(&mut self, link: u32) -> Result<bool, Error> {
        let mut found = false;
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            self.0.request(
                "list traffic filters",
                Mode::Dump,
                RouteNetlinkMessage::GetTrafficFilter(clsact(link, minor)?),
                |answer| {
                    found |= matches!(answer, RouteNetlinkMessage::NewTrafficFilter(_));
                },
            )?;
        }
        Ok(found)
    }

    pub(crate) fn delete_clsact(&mut self, link: u32) -> Result<(), Error> {
        self.0.request(
            "delete the clsact qdisc",
            Mode::Plain,
            RouteNetlinkMessage::DelQueueDiscipline(clsact(link, TcHandle::CLSACT.minor)?),
            |_| {},
        )
    }
}

fn clsact(link: u32, minor: u16) -> Result<TcMessage, Error> {
    let index = i32::try_from(link)
        .map_err(|_| Error::Config(format!("interface index {link} is out of range")))?;
    let mut message = TcMessage::with_index(index);
    message.header.parent = TcHandle {
        major: u16::MAX,
        minor,
    };
    Ok(message)
}

fn describe(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        alias: None,
        ethernet: matches!(
            message.header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Loopback
        ),
        if_id: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => {
                link.if_id = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Xfrm(data)) => data.iter().find_map(|d| match d {
                        InfoXfrm::IfId(id) => Some(*id),
                        _ => None,
                    }),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Length of a host prefix.
pub(crate) const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn address_message(link: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = host_prefix(address);
    message.header.index = link;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

fn route_message(route: &Route, maker: Maker) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.destination.addr()),
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(maker.protocol()),
        scope: if route.via.is_some() {
            RouteScope::Universe
        } else {
            RouteScope::Link
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(route.destination.network())),
        RouteAttribute::Oif(route.link),
    ];
    if let Some(via) = route.via {
        message.header.flags = RouteFlags::Onlink;
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::from(via)));
    }
    if let Some(source) = route.source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(RouteAddress::from(source)));
    }
    if route.metric != 0 {
        message
            .attributes
            .push(RouteAttribute::Priority(route.metric));
    }
    message
}

fn read_route(message: &RouteMessage) -> Option<Route> {
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut via, mut link, mut source, mut metric) = (None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    Some(Route {
        destination: IpNet::new(destination, message.header.destination_prefix_length).ok()?,
        via,
        link: link?,
        source,
        metric,
    })
}

/// Writes a setting below `/proc/sys/net`; a setting this kernel does not have is no error.
pub(crate) fn sysctl(path: &str, value: &str) -> Result<(), Error> {
    let file = format!("/proc/sys/net/{path}");
    match std::fs::write(&file, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| Error::io(format!("write {value} to {file}"), e)),
    }
}
