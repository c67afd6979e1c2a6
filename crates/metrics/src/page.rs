//! One page: filled at a scrape, then written as text.

use std::{collections::BTreeMap, time::Duration};

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, Registry, TextEncoder,
    process_collector::ProcessCollector,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use tracing::error;

use crate::{Description, Family, Kind, family::Described};

/// What a sample may be given as.
pub trait Value {
    /// As the format has it.
    fn float(self) -> f64;
}

impl Value for f64 {
    fn float(self) -> f64 {
        self
    }
}

impl Value for u64 {
    // Exact up to 2^53; the format has no other numbers.
    fn float(self) -> f64 {
        self as f64
    }
}

impl Value for usize {
    fn float(self) -> f64 {
        self as f64
    }
}

impl Value for bool {
    fn float(self) -> f64 {
        f64::from(u8::from(self))
    }
}

impl Value for Duration {
    fn float(self) -> f64 {
        self.as_secs_f64()
    }
}

/// The samples of one scrape.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<&'static str, (Description, Vec<Metric>)>,
}

impl Page {
    /// An empty page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sample of a counter or a gauge.
    pub fn put<const N: usize>(
        &mut self,
        family: &'static Family<N>,
        labels: [&str; N],
        value: impl Value,
    ) {
        let pairs = family.labels.iter().zip(labels);
        let pairs = pairs
            .map(|(label, value)| pair(label.name, value))
            .collect();
        let mut metric = Metric::from_label(pairs);
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value.float());
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value.float());
                metric.set_gauge(gauge);
            }
            Kind::Histogram(_) => {
                error!(family = family.name, "a histogram is not put on a page");
                return;
            }
        }
        self.families
            .entry(family.name)
            .or_insert_with(|| (family.describe(), Vec::new()))
            .1
            .push(metric);
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// What is collected between scrapes, and how a page is written.
#[derive(Debug)]
pub struct Exporter {
    registry: Registry,
}

impl Exporter {
    /// With the families of the process itself (`process_*`: processor time, memory, descriptors).
    pub fn new() -> Self {
        let registry = Registry::new();
        if let Err(error) = registry.register(Box::new(ProcessCollector::for_self())) {
            error!(%error, "process metrics");
        }
        Self { registry }
    }

    /// Begins to collect a family of durations.
    pub fn histogram<const N: usize>(&self, family: &'static Family<N>) -> Histogram<N> {
        let mut options = HistogramOpts::new(family.name, family.help);
        if let Kind::Histogram(buckets) = family.kind {
            options.buckets = buckets.to_vec();
        }
        let names: Vec<&str> = family.labels.iter().map(|label| label.name).collect();
        let made = HistogramVec::new(options, &names).and_then(|vec| {
            self.registry.register(Box::new(vec.clone()))?;
            Ok(vec)
        });
        if let Err(error) = &made {
            error!(family = family.name, %error, "histogram");
        }
        Histogram(made.ok())
    }

    /// Writes the page with what was collected, families by name.
    pub fn write(&self, page: Page) -> String {
        let mut all = self.registry.gather();
        all.extend(page.families.into_values().map(|(family, metrics)| {
            let mut out = MetricFamily::default();
            out.set_name(family.name.to_owned());
            out.set_help(family.help.to_owned());
            out.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge | Kind::Histogram(_) => MetricType::GAUGE,
            });
            out.set_metric(metrics);
            out
        }));
        all.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&all, &mut text) {
            error!(%error, "metrics page");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new()
    }
}

/// A family of durations, collected as they happen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Histogram<const N: usize>(Option<HistogramVec>);

impl<const N: usize> Histogram<N> {
    /// Adds one duration.
    pub fn observe(&self, labels: [&str; N], duration: Duration) {
        if let Some(vec) = &self.0 {
            vec.with_label_values(&labels)
                .observe(duration.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::families! {
        /// For the test.
        ALL;
        SENT: Kind::Counter, "x_sent_total", ["kind" = "`a`, `b`"], "Sent.";
        UP: Kind::Gauge, "x_up", [], "Up.";
        TIME: Kind::Histogram(&[0.5, 1.0]), "x_seconds", ["phase" = "any"], "Time.";
    }

    #[test]
    fn a_page_in_the_text_format() {
        let exporter = Exporter::new();
        let time = exporter.histogram(&TIME);
        time.observe(["one"], Duration::from_millis(700));
        let mut page = Page::new();
        page.put(&UP, [], true);
        page.put(&SENT, ["a"], 3_u64);
        page.put(&SENT, ["quote\"\n"], 4_usize);
        let text = exporter.write(page);
        let own: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("x_") && !line.contains("process_"))
            .collect();
        assert_eq!(
            own.join("\n"),
            "\
# HELP x_seconds Time.
# TYPE x_seconds histogram
x_seconds_bucket{phase=\"one\",le=\"0.5\"} 0
x_seconds_bucket{phase=\"one\",le=\"1\"} 1
x_seconds_bucket{phase=\"one\",le=\"+Inf\"} 1
x_seconds_sum{phase=\"one\"} 0.7
x_seconds_count{phase=\"one\"} 1
# HELP x_sent_total Sent.
# TYPE x_sent_total counter
x_sent_total{kind=\"a\"} 3
x_sent_total{kind=\"quote\\\"\\n\"} 4
# HELP x_up Up.
# TYPE x_up gauge
x_up 1"
        );
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        assert_eq!(ALL.len(), 3);
    }
}
