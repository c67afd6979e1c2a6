//! Pictures: SVG by `plotters`, PNG of the same by `resvg`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg;

use crate::stats::{Summary, quantile, real};

/// Size in pixels of the SVG; the PNG has twice as many each way.
const SIZE: (u32, u32) = (720, 400);
/// Blue, orange, green, vermilion, purple, sky blue: colours that colour-blind readers tell apart
/// (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
];

/// A sample with its name.
pub type Sample = (String, Vec<f64>);

/// A line with its name: points by x.
#[derive(Clone, Debug)]
pub struct Line {
    /// As the legend has it.
    pub name: String,
    /// Points.
    pub points: Vec<(f64, f64)>,
    /// Without marks, for what is computed and not measured.
    pub theory: bool,
}

/// Axis titles of a chart, and its own.
#[derive(Clone, Copy, Debug)]
pub struct Titles<'a> {
    /// Above.
    pub title: &'a str,
    /// Below; may be empty.
    pub x: &'a str,
    /// At the left.
    pub y: &'a str,
}

/// Box plots side by side: box from quartile to quartile, line at the median, whiskers to the last
/// value within 1.5 box heights, what is beyond as circles. Writes `<stem>.svg` and `<stem>.png`.
///
/// # Errors
/// When there is nothing to draw or a file cannot be written.
pub fn boxes(stem: &Path, titles: Titles<'_>, samples: &[Sample]) -> Result<()> {
    let most = samples.iter().flat_map(|(_, values)| values).copied();
    let most = most.fold(0.0, f64::max);
    ensure!(most > 0.0, "nothing to draw for {}", titles.title);
    draw(stem, |area| {
        let names: Vec<String> = samples.iter().map(|(name, _)| name.clone()).collect();
        let width = real(samples.len());
        let mut chart = ChartBuilder::on(area)
            .caption(titles.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..width, 0.0..most * 1.05)
            .map_err(wrong)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(samples.len() * 2 + 1)
            .x_label_formatter(&|x| label(&names, *x))
            .y_desc(titles.y)
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(wrong)?;
        for (index, (_, values)) in samples.iter().enumerate() {
            let colour = colour(index);
            let middle = real(index) + 0.5;
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let s = Summary::of(sorted.iter().copied());
            let reach = 1.5 * (s.q3 - s.q1);
            let inside = |v: &&f64| **v >= s.q1 - reach && **v <= s.q3 + reach;
            let low = sorted.iter().find(inside).copied().unwrap_or(s.least);
            let high = sorted.iter().rev().find(inside).copied().unwrap_or(s.most);
            let bar = |y: f64, half: f64| {
                PathElement::new(
                    vec![(middle - half, y), (middle + half, y)],
                    colour.stroke_width(2),
                )
            };
            let lines = [
                bar(s.median, 0.25),
                bar(low, 0.1),
                bar(high, 0.1),
                PathElement::new(vec![(middle, low), (middle, s.q1)], colour.stroke_width(1)),
                PathElement::new(vec![(middle, s.q3), (middle, high)], colour.stroke_width(1)),
            ];
            let body = [(middle - 0.25, s.q1), (middle + 0.25, s.q3)];
            chart
                .draw_series([
                    Rectangle::new(body, colour.mix(0.25).filled()),
                    Rectangle::new(body, colour.stroke_width(1)),
                ])
                .map_err(wrong)?;
            chart.draw_series(lines).map_err(wrong)?;
            let outside = sorted.iter().filter(|v| **v < low || **v > high);
            chart
                .draw_series(outside.map(|v| Circle::new((middle, *v), 2, colour.stroke_width(1))))
                .map_err(wrong)?;
        }
        Ok(())
    })
}

/// The name of the box whose middle is at `x`.
fn label(names: &[String], x: f64) -> String {
    names
        .iter()
        .enumerate()
        .find(|(index, _)| (real(*index) + 0.5 - x).abs() < 0.01)
        .map(|(_, name)| name.clone())
        .unwrap_or_default()
}

/// Lines over a common x. Writes `<stem>.svg` and `<stem>.png`.
///
/// # Errors
/// When there is nothing to draw or a file cannot be written.
pub fn lines(stem: &Path, titles: Titles<'_>, lines: &[Line]) -> Result<()> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let right = all().map(|(x, _)| *x).fold(0.0, f64::max);
    let mut heights: Vec<f64> = all().map(|(_, y)| *y).collect();
    heights.sort_by(f64::total_cmp);
    let top = quantile(&heights, 1.0);
    ensure!(
        right > 0.0 && top > 0.0,
        "nothing to draw for {}",
        titles.title
    );
    draw(stem, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(titles.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..right * 1.05, 0.0..top * 1.1)
            .map_err(wrong)?;
        chart
            .configure_mesh()
            .x_desc(titles.x)
            .y_desc(titles.y)
            .label_style(("sans-serif", 14))
            .draw()
            .map_err(wrong)?;
        for (index, line) in lines.iter().enumerate() {
            let colour = colour(index);
            let width = if line.theory { 1 } else { 2 };
            chart
                .draw_series(LineSeries::new(
                    line.points.iter().copied(),
                    colour.stroke_width(width),
                ))
                .map_err(wrong)?
                .label(line.name.as_str())
                .legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            if !line.theory {
                chart
                    .draw_series(
                        line.points
                            .iter()
                            .map(|point| Circle::new(*point, 3, colour.filled())),
                    )
                    .map_err(wrong)?;
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 14))
            .draw()
            .map_err(wrong)
    })
}

fn colour(index: usize) -> RGBColor {
    COLOURS.get(index % COLOURS.len()).copied().unwrap_or(BLACK)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(stem: &Path, paint: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<()> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(wrong)?;
        paint(&area)?;
        area.present().map_err(wrong)?;
    }
    let write = |suffix: &str, octets: &[u8]| {
        let path = stem.with_extension(suffix);
        fs::write(&path, octets).with_context(|| format!("cannot write {}", path.display()))
    };
    write("svg", svg.as_bytes())?;
    write("png", &png(&svg)?)
}

/// The same picture in pixels.
fn png(svg: &str) -> Result<Vec<u8>> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    ensure!(
        !fonts.is_empty(),
        "no font on this host: the pictures need one (Debian package fonts-dejavu-core)"
    );
    // `sans-serif` is Arial by default, which few hosts have.
    let sans = fonts
        .faces()
        .filter_map(|face| face.families.first())
        .map(|(name, _)| name.clone())
        .find(|name| name == "DejaVu Sans" || name == "Liberation Sans" || name == "Noto Sans")
        .or_else(|| {
            let first = fonts.faces().next()?;
            first.families.first().map(|(name, _)| name.clone())
        })
        .context("fonts without a name")?;
    fonts.set_sans_serif_family(sans);
    let tree = usvg::Tree::from_str(svg, &options)?;
    let mut pixels = Pixmap::new(SIZE.0 * 2, SIZE.1 * 2).context("a picture without pixels")?;
    resvg::render(&tree, Transform::from_scale(2.0, 2.0), &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

fn wrong(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_hold_what_was_measured() {
        let directory = tempfile::tempdir().unwrap();
        let stem = directory.path().join("x");
        let titles = Titles {
            title: "INIT",
            x: "",
            y: "ms",
        };
        let samples = [
            ("qkd".to_owned(), vec![1.0, 2.0, 3.0, 4.0, 40.0]),
            ("psk".to_owned(), vec![5.0, 6.0, 7.0]),
        ];
        boxes(&stem, titles, &samples).unwrap();
        let svg = fs::read_to_string(stem.with_extension("svg")).unwrap();
        for name in ["qkd", "psk", "INIT", "ms"] {
            assert!(svg.contains(name), "{name}");
        }
        assert_eq!(svg.matches("<circle").count(), 1, "one value is far out");
        let png = fs::read(stem.with_extension("png")).unwrap();
        assert_eq!(png.get(..4), Some(&b"\x89PNG"[..]));
        assert!(boxes(&stem, titles, &[("none".to_owned(), Vec::new())]).is_err());
        let line = Line {
            name: "theory".to_owned(),
            points: vec![(0.0, 0.0), (10.0, 5.0)],
            theory: true,
        };
        lines(&stem, titles, &[line]).unwrap();
        let svg = fs::read_to_string(stem.with_extension("svg")).unwrap();
        assert!(svg.contains("theory") && !svg.contains("<circle"));
    }
}
