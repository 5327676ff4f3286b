//! What the plots share: colors, markers, axes, legends and the format of numbers.
//!
//! The plots have no background, and only colors of medium lightness. They are readable on a white
//! page and on a black one.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::combinators::WithKeyPoints;
use plotters::element::ComposedElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::subjects::Subject;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type LogLog<'a> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<WithKeyPoints<LogCoord<f64>>, WithKeyPoints<LogCoord<f64>>>,
>;
pub type Format = fn(f64) -> String;

pub const WIDTH: u32 = 960;
pub const HEIGHT: u32 = 500;
/// Height of the title.
pub const TITLE: u32 = 36;
/// Width of the legend.
pub const LEGEND: u32 = 215;
/// The color of text and axes.
pub const TEXT: RGBColor = RGBColor(0x76, 0x83, 0x90);

/// Each has a contrast of 3 or more on white and on black.
const COLORS: &[RGBColor] = &[
    RGBColor(0x64, 0x74, 0x8b), // slate
    RGBColor(0x8c, 0x6d, 0x5a), // clay
    RGBColor(0xa1, 0x62, 0x07), // brown
    RGBColor(0x65, 0xa3, 0x0d), // lime
    RGBColor(0xa8, 0x55, 0xf7), // violet
    RGBColor(0xef, 0x44, 0x44), // red
    RGBColor(0xd9, 0x77, 0x06), // orange
    RGBColor(0x3b, 0x82, 0xf6), // blue
    RGBColor(0x08, 0x91, 0xb2), // cyan
    RGBColor(0x16, 0xa3, 0x4a), // green
    RGBColor(0x0d, 0x94, 0x88), // teal
    RGBColor(0xdb, 0x27, 0x77), // pink
    RGBColor(0xc0, 0x26, 0xd3), // magenta
];

/// The outlines of the markers: circle, square, diamond, and two triangles.
const MARKERS: &[&[(i32, i32)]] = &[
    &[
        (5, 0),
        (4, 3),
        (3, 4),
        (0, 5),
        (-3, 4),
        (-4, 3),
        (-5, 0),
        (-4, -3),
        (-3, -4),
        (0, -5),
        (3, -4),
        (4, -3),
    ],
    &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
    &[(0, -6), (6, 0), (0, 6), (-6, 0)],
    &[(0, -6), (5, 4), (-5, 4)],
    &[(0, 6), (5, -4), (-5, -4)],
];

/// The look of a subject, the same in all plots.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub color: RGBColor,
    marker: usize,
    /// References and baselines have dashed lines and hollow markers.
    pub dashed: bool,
}

impl Look {
    pub fn of(subject: &Subject) -> Self {
        Self {
            color: COLORS[subject.look % COLORS.len()],
            marker: subject.look % MARKERS.len(),
            dashed: !subject.is_from_catalog(),
        }
    }

    /// The look of a workload, in a plot with a row for each server.
    pub fn of_workload(index: usize) -> Self {
        let (color, marker) = [(COLORS[7], 0), (COLORS[6], 2)][index];
        Self { color, marker, dashed: false }
    }
}

type Marker<'a, C> =
    ComposedElement<C, SVGBackend<'a>, Polygon<(i32, i32)>, PathElement<(i32, i32)>>;

pub fn marker<'a, C: Clone + 'a>(at: C, look: Look) -> Marker<'a, C> {
    let mut outline = MARKERS[look.marker].to_vec();
    let fill = if look.dashed { TRANSPARENT } else { look.color.to_rgba() };
    let inside = Polygon::new(outline.clone(), fill);
    outline.extend_from_within(..1);
    EmptyElement::at(at) + inside + PathElement::new(outline, look.color.stroke_width(2))
}

/// A line of a plot.
#[derive(Debug)]
pub struct Series {
    pub name: String,
    pub look: Look,
    pub points: Vec<(f64, f64)>,
}

/// Draws the title, and divides what is below it at `x`.
pub fn frame<'a>(root: &Area<'a>, title: &str, x: u32) -> Result<(Area<'a>, Area<'a>)> {
    let (head, body) = root.split_vertically(TITLE);
    head.draw(&Text::new(title.to_owned(), (14, 10), text(17)))?;
    Ok(body.split_horizontally(x))
}

pub fn draw_legend(area: &Area, series: &[Series]) -> Result<()> {
    for (row, Series { name, look, .. }) in series.iter().enumerate() {
        let y = 16 + 22 * row as i32;
        if look.dashed {
            for x in [8, 21, 34] {
                let style = look.color.stroke_width(2);
                area.draw(&PathElement::new([(x, y), (x + 8, y)], style))?;
            }
        } else {
            area.draw(&PathElement::new([(8, y), (42, y)], look.color.stroke_width(2)))?;
        }
        area.draw(&marker((25, y), *look))?;
        let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.clone(), (52, y), style))?;
    }
    Ok(())
}

pub fn log_log<'a>(
    area: &Area<'a>,
    xs: &[f64],
    x_ticks: Vec<f64>,
    ys: &[f64],
) -> Result<LogLog<'a>> {
    let (left, right) = with_margin(xs);
    let (bottom, top) = with_margin(ys);
    let chart = ChartBuilder::on(area)
        .margin_right(12)
        .margin_bottom(8)
        .margin_left(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (left..right).log_scale().with_key_points(x_ticks),
            (bottom..top).log_scale().with_key_points(ticks(bottom, top)),
        )?;
    Ok(chart)
}

/// Draws both axes, each with its label and its format of numbers.
pub fn draw_mesh(chart: &mut LogLog, x: (&str, Format), y: (&str, Format)) -> Result<()> {
    chart
        .configure_mesh()
        .x_desc(x.0)
        .y_desc(y.0)
        .axis_desc_style(text(13))
        .label_style(text(12))
        .axis_style(TEXT)
        .bold_line_style(TEXT.mix(0.25))
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|value| x.1(*value))
        .y_label_formatter(&|value| y.1(*value))
        .draw()?;
    Ok(())
}

pub fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&TEXT)
}

/// Formats a number without trailing zeros.
pub fn number(value: f64) -> String {
    if value >= 10_000.0 { format!("{} 000", value / 1e3) } else { value.to_string() }
}

/// Formats a time in microseconds.
pub fn time(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} s", number(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", number(value / 1e3)),
        value => format!("{} µs", number(value)),
    }
}

pub fn percent(value: f64) -> String {
    format!("{} %", number(value))
}

/// Returns the range of a logarithmic axis, with a margin on both sides.
pub fn with_margin(values: &[f64]) -> (f64, f64) {
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(0.0, f64::max);
    (smallest / 1.25, largest * 1.25)
}

/// Returns round numbers, a few for each decade.
pub fn ticks(from: f64, to: f64) -> Vec<f64> {
    let steps: &[f64] = match to / from {
        ratio if ratio > 2000.0 => &[1.0],
        ratio if ratio > 5.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
    };
    let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let all = decades.flat_map(|decade| {
        // Divided for negative decades: 3 / 10 is the number nearest to 0.3, and 3 * 0.1 is not.
        steps.iter().map(move |step| {
            if decade < 0 { step / 10f64.powi(-decade) } else { step * 10f64.powi(decade) }
        })
    });
    all.filter(|&tick| from <= tick && tick <= to).collect()
}
