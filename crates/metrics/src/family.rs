//! What a family of metrics is: declared once, used by the daemon, the documentation and the tests.

/// How the values of a family behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Never goes back while the daemon runs.
    Counter,
    /// A state of now.
    Gauge,
    /// How often a value fell under each of these bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word of the exposition format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label and the values it may have, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values, for the documentation.
    pub values: &'static str,
}

/// A family with `N` labels: nobody can give it one more or less.
#[derive(Debug)]
pub struct Family<const N: usize> {
    /// Name, with its unit.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What it is.
    pub help: &'static str,
    /// Its labels.
    pub labels: [Label; N],
}

/// A family without regard to how many labels it has.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Name, with its unit.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What it is.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
}

/// Families of any number of labels in one list.
pub trait Described: Sync {
    /// The family.
    fn describe(&'static self) -> Description;
}

impl<const N: usize> Described for Family<N> {
    fn describe(&'static self) -> Description {
        Description {
            name: self.name,
            kind: self.kind,
            help: self.help,
            labels: &self.labels,
        }
    }
}

/// Declares families and the list of all of them:
///
/// ```
/// metrics::families! {
///     /// Everything there is.
///     pub ALL;
///     ATTACHES: metrics::Kind::Counter, "x_attaches_total",
///         ["outcome" = "`ok`, `failed`"], "Attaches that ended.";
///     UES: metrics::Kind::Gauge, "x_ues", [], "UEs attached now.";
/// }
/// assert_eq!(ALL.len(), 2);
/// ```
#[macro_export]
macro_rules! families {
    ($(#[$doc:meta])* $vis:vis $all:ident;
     $($id:ident: $kind:expr, $name:expr, [$($label:literal = $values:literal),* $(,)?], $help:literal;)*) => {
        $(
            #[doc = $help]
            $vis static $id: $crate::Family<{ <[&str]>::len(&[$($label),*]) }> = $crate::Family {
                name: $name,
                kind: $kind,
                help: $help,
                labels: [$($crate::Label { name: $label, values: $values }),*],
            };
        )*
        $(#[$doc])*
        $vis static $all: &[&'static dyn $crate::Described] = &[$(&$id),*];
    };
}
