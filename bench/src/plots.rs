//! The figures as SVG plots.
//!
//! They have no background, and only colours of medium lightness: they can be read on a white
//! page and on a black one.

use std::path::Path;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::combinators::WithKeyPoints;
use plotters::coord::types::RangedCoordf64;
use plotters::element::ComposedElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::points::{Point, SMALL};
use crate::subjects::{PAUSING, REFERENCE, Service, Subject};
use crate::summary::{Measured, Summary};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type LogLog<'a> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<WithKeyPoints<LogCoord<f64>>, WithKeyPoints<LogCoord<f64>>>,
>;
type Figure = fn(&Measured) -> Option<f64>;
type Format = fn(f64) -> String;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 500;
/// Of the title above a plot.
const TITLE: u32 = 36;
/// Of the legend to the right of it.
const LEGEND: u32 = 215;
/// Of a row in a plot with a row for each server.
const ROW: u32 = 24;
const TEXT: RGBColor = RGBColor(0x76, 0x83, 0x90);

/// Each has a contrast of 3 or more on white and on black.
const COLOURS: &[RGBColor] = &[
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

/// The outlines of the markers around their middle: circle, square, diamond, and two triangles.
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

/// How a subject looks, in every plot the same.
#[derive(Clone, Copy, Debug)]
struct Look {
    colour: RGBColor,
    marker: usize,
    /// Of the peers and the floors: a dashed line, and a marker that is an outline.
    dashed: bool,
}

impl Look {
    fn of(subject: &Subject) -> Self {
        let (colour, marker) = (COLOURS[subject.look], subject.look % MARKERS.len());
        Self { colour, marker, dashed: !subject.is_ours() }
    }

    /// Of the loads in a plot with a row for each server.
    fn of_load(index: usize) -> Self {
        let (colour, marker) = [(COLOURS[7], 0), (COLOURS[6], 2)][index];
        Self { colour, marker, dashed: false }
    }
}

type Marker<'a, C> =
    ComposedElement<C, SVGBackend<'a>, Polygon<(i32, i32)>, PathElement<(i32, i32)>>;

fn marker<'a, C: Clone + 'a>(at: C, look: Look) -> Marker<'a, C> {
    let mut outline = MARKERS[look.marker].to_vec();
    let fill = if look.dashed { TRANSPARENT } else { look.colour.to_rgba() };
    let inside = Polygon::new(outline.clone(), fill);
    outline.extend_from_within(..1);
    EmptyElement::at(at) + inside + PathElement::new(outline, look.colour.stroke_width(2))
}

#[derive(Debug)]
struct Series {
    name: String,
    look: Look,
    points: Vec<(f64, f64)>,
}

/// Draws all plots for which there are figures; their names, without `.svg`, and titles.
pub fn draw(
    dir: &Path,
    summary: &Summary,
    points: &[Point],
    subjects: &[&Subject],
) -> Result<Vec<(&'static str, &'static str)>> {
    let plots = Plots { dir, summary, points, subjects };
    let mut drawn = Vec::new();
    let mut note = |name, title, is_drawn| {
        if is_drawn {
            drawn.push((name, title));
        }
    };
    let title = "What a message costs beside idle connections";
    note("idle", title, plots.idle("idle", title)?);
    let title = "What a message costs when all connections are busy";
    note("active", title, plots.active("active", title, &[("CPU time a message", CPU)])?);
    let title = "How long a message takes when all connections are busy";
    let panels: &[(&str, Figure)] = &[("median", P50), ("99th percentile", P99)];
    note("latency", title, plots.active("latency", title, panels)?);
    let title = "System calls a message";
    note("calls", title, plots.calls("calls", title)?);
    let title = "nonblocking-echo: the longer the pause, the cheaper and the later";
    note("pause", title, plots.pause("pause", title)?);
    let title = "Memory of the process for an idle connection";
    note("memory", title, plots.memory("memory", title)?);
    let title = "Chat: what a line costs for each client that gets it";
    note("chat", title, plots.chat("chat", title)?);
    Ok(drawn)
}

const CPU: Figure = |measured| measured.median(|figures| figures.cpu_us);
const P50: Figure = |measured| measured.median(|figures| figures.p50_us);
const P99: Figure = |measured| measured.median(|figures| figures.p99_us);

struct Plots<'a> {
    dir: &'a Path,
    summary: &'a Summary,
    points: &'a [Point],
    subjects: &'a [&'a Subject],
}

impl Plots<'_> {
    /// The figure of each subject at those points that are on the axis, by the value on it.
    fn series(
        &self,
        subjects: impl Fn(&Subject) -> bool,
        axis: impl Fn(Point) -> Option<usize>,
        figure: Figure,
    ) -> Vec<Series> {
        let mut series = Vec::new();
        for subject in self.subjects.iter().filter(|subject| subjects(subject)) {
            let at = |&point: &Point| {
                let x = axis(point)?;
                let y = self.summary.measured(point, subject)?;
                let y = figure(&y)?;
                (y > 0.0).then_some((x as f64, y))
            };
            let mut points: Vec<_> = self.points.iter().filter_map(at).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            // The dearest first, as they lie in the plot.
            if points.len() > 1 {
                let (name, look) = (subject.name.to_owned(), Look::of(subject));
                series.push(Series { name, look, points });
            }
        }
        let last = |series: &Series| series.points.last().map_or(0.0, |point| point.1);
        series.sort_by(|a, b| last(b).total_cmp(&last(a)));
        series
    }

    fn idle(&self, name: &str, title: &str) -> Result<bool> {
        let axis = |point| match point {
            Point::Echo { active: 1, idle, size: SMALL } => Some(1 + idle),
            _ => None,
        };
        let series = self.series(|_| true, axis, CPU);
        let panel = ("connections, of which one is busy", "CPU time a message", series);
        self.lines(name, title, &[panel])
    }

    fn active(&self, name: &str, title: &str, panels: &[(&'static str, Figure)]) -> Result<bool> {
        let axis = |point| match point {
            Point::Echo { active, idle: 0, size: SMALL } => Some(active),
            _ => None,
        };
        // One floor is enough where they all lie close together.
        let subjects = |subject: &Subject| {
            subject.name == "baseline-epoll" || !subject.name.starts_with("baseline-")
        };
        let panels = panels.iter().map(|&(label, figure)| {
            ("busy connections", label, self.series(subjects, axis, figure))
        });
        self.lines(name, title, &panels.collect::<Vec<_>>())
    }

    /// Lines over the number of connections, in one or more panels, with one legend.
    fn lines(&self, name: &str, title: &str, panels: &[(&str, &str, Vec<Series>)]) -> Result<bool> {
        if panels.iter().any(|(_, _, series)| series.is_empty()) {
            return Ok(false);
        }
        let path = self.dir.join(format!("{name}.svg"));
        let root = SVGBackend::new(&path, (WIDTH, HEIGHT)).into_drawing_area();
        let (plot, legend) = frame(&root, title, WIDTH - LEGEND)?;
        draw_legend(&legend, &panels[panels.len() - 1].2)?;
        for (area, (x_label, y_label, series)) in
            plot.split_evenly((1, panels.len())).iter().zip(panels)
        {
            let xs: Vec<_> = series.iter().flat_map(|series| &series.points).map(|p| p.0).collect();
            let ys: Vec<_> = series.iter().flat_map(|series| &series.points).map(|p| p.1).collect();
            let mut ticks = xs.clone();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            let mut chart = log_log(area, &xs, ticks, &ys)?;
            mesh(&mut chart, (x_label, number), (y_label, time))?;
            for Series { look, points, .. } in series {
                let style = look.colour.stroke_width(2);
                if look.dashed {
                    let line = DashedLineSeries::new(points.iter().copied(), 6, 4, style);
                    chart.draw_series(line)?;
                } else {
                    chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
                }
                chart.draw_series(points.iter().map(|&point| marker(point, *look)))?;
            }
        }
        root.present()?;
        Ok(true)
    }

    fn calls(&self, name: &str, title: &str) -> Result<bool> {
        let series = [1, 64].into_iter().enumerate().map(|(index, active)| {
            let point = Point::Echo { active, idle: 0, size: SMALL };
            (format!("{active} busy"), index, point)
        });
        let panel = ("system calls a message", (|measured| measured.calls) as Figure);
        self.dots(name, title, Service::Echo, &series.collect::<Vec<_>>(), &[panel], number)
    }

    fn memory(&self, name: &str, title: &str) -> Result<bool> {
        let series = [900, 5000].into_iter().enumerate().map(|(index, idle)| {
            let point = Point::Echo { active: 1, idle, size: SMALL };
            (format!("of {idle} idle"), index, point)
        });
        let panel =
            ("bytes", (|measured| measured.median(|figures| figures.idle_memory)) as Figure);
        self.dots(name, title, Service::Echo, &series.collect::<Vec<_>>(), &[panel], number)
    }

    fn chat(&self, name: &str, title: &str) -> Result<bool> {
        let series = [100, 1000].into_iter().enumerate();
        let series = series
            .map(|(index, clients)| (format!("{clients} clients"), index, Point::Chat { clients }));
        let panels: &[(&str, Figure)] =
            &[("CPU time a client", CPU), ("median until the last has it", P50)];
        self.dots(name, title, Service::Chat, &series.collect::<Vec<_>>(), panels, time)
    }

    /// A row for each server, with a marker for each of a few loads.
    fn dots(
        &self,
        name: &str,
        title: &str,
        service: Service,
        loads: &[(String, usize, Point)],
        panels: &[(&str, Figure)],
        format: Format,
    ) -> Result<bool> {
        let value = |subject: &Subject, point, figure: Figure| {
            figure(&self.summary.measured(point, subject)?).filter(|&value| value > 0.0)
        };
        let has_any = |subject: &&&Subject| {
            let mut points = loads.iter().map(|load| load.2);
            points.any(|point| value(subject, point, panels[0].1).is_some())
        };
        let subjects: Vec<_> = self
            .subjects
            .iter()
            .filter(|subject| subject.service == service)
            .filter(has_any)
            .collect();
        if subjects.is_empty() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{name}.svg"));
        let height = TITLE + 70 + ROW * subjects.len() as u32;
        let root = SVGBackend::new(&path, (WIDTH, height)).into_drawing_area();
        let (plot, legend) = frame(&root, title, WIDTH - 140)?;
        let series = loads.iter().map(|(name, index, _)| {
            let name = name.clone();
            Series { name, look: Look::of_load(*index), points: Vec::new() }
        });
        draw_legend(&legend, &series.collect::<Vec<_>>())?;

        let (names, plot) = plot.split_horizontally(185);
        let mut rows_at = Vec::new();
        for (area, &(label, figure)) in plot.split_evenly((1, panels.len())).iter().zip(panels) {
            let all = subjects
                .iter()
                .flat_map(|subject| loads.iter().filter_map(|load| value(subject, load.2, figure)));
            let all: Vec<_> = all.collect();
            let rows = subjects.len() as f64;
            let (from, to) = around(&all);
            let mut chart =
                ChartBuilder::on(area).margin_right(20).x_label_area_size(44).build_cartesian_2d(
                    (from..to).log_scale().with_key_points(ticks(from, to)),
                    RangedCoordf64::from(rows - 0.5..-0.5),
                )?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .disable_y_axis()
                .y_labels(0)
                .x_desc(label)
                .axis_desc_style(text(13))
                .label_style(text(12))
                .axis_style(TEXT)
                .bold_line_style(TEXT.mix(0.25))
                .light_line_style(TRANSPARENT)
                .x_label_formatter(&|value| format(*value))
                .draw()?;
            for (index, subject) in subjects.iter().enumerate() {
                let row = index as f64;
                let guide = [(from, row), (to, row)];
                chart.draw_series(LineSeries::new(guide, TEXT.mix(0.25)))?;
                for (_, index, point) in loads {
                    if let Some(value) = value(subject, *point, figure) {
                        // One above the other, where they are the same.
                        let at = (value, row + [-0.15, 0.15][*index]);
                        chart.draw_series([marker(at, Look::of_load(*index))])?;
                    }
                }
                let middle = chart.backend_coord(&(from, row)).1 - TITLE as i32;
                rows_at.push((subject.name, middle));
            }
        }
        rows_at.truncate(subjects.len());
        for (name, middle) in rows_at {
            let style = text(13).pos(Pos::new(HPos::Right, VPos::Center));
            names.draw(&Text::new(name, (177, middle), style))?;
        }
        root.present()?;
        Ok(true)
    }

    fn pause(&self, name: &str, title: &str) -> Result<bool> {
        let of = |name: &'static str| {
            let subject = self.subjects.iter().find(|subject| subject.name == name)?;
            let points = self.points.iter().filter_map(|&point| {
                let Point::Pause { pause } = point else { return None };
                let measured = self.summary.measured(point, subject)?;
                // What costs nothing lies at the bottom: a logarithm has no zero.
                let cpu = measured.median(|figures| figures.idle_cpu)?.max(1e-4);
                Some((P50(&measured)?, cpu * 100.0, pause))
            });
            let points: Vec<_> = points.collect();
            (!points.is_empty()).then_some((subject, points))
        };
        let series: Vec<_> = [PAUSING, REFERENCE].into_iter().filter_map(of).collect();
        if series.is_empty() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{name}.svg"));
        let root = SVGBackend::new(&path, (WIDTH, HEIGHT)).into_drawing_area();
        let (plot, legend) = frame(&root, title, WIDTH - LEGEND)?;
        let in_legend = series.iter().map(|(subject, _)| {
            let (name, look) = (subject.name.to_owned(), Look::of(subject));
            Series { name, look, points: Vec::new() }
        });
        draw_legend(&legend, &in_legend.collect::<Vec<_>>())?;
        let all = || series.iter().flat_map(|(_, points)| points);
        let xs: Vec<_> = all().map(|point| point.0).collect();
        let ys: Vec<_> = all().map(|point| point.1).collect();
        let (from, to) = around(&xs);
        // Room for the text beside the last marker.
        let mut chart = log_log(&plot, &[from, to * 1.6], ticks(from, to * 1.6), &ys)?;
        mesh(&mut chart, ("median latency", time), ("CPU when nobody talks", percent))?;
        for (subject, points) in &series {
            let look = Look::of(subject);
            let line = points.iter().map(|point| (point.0, point.1));
            chart.draw_series(LineSeries::new(line.clone(), look.colour.stroke_width(2)))?;
            chart.draw_series(line.map(|point| marker(point, look)))?;
            chart.draw_series(points.iter().map(|&(x, y, pause)| {
                let label = match pause {
                    Some(0) => "no pause".to_owned(),
                    Some(pause) => time(pause as f64),
                    None => "waits".to_owned(),
                };
                let style = text(12).pos(Pos::new(HPos::Left, VPos::Center));
                EmptyElement::at((x, y)) + Text::new(label, (10, -9), style)
            }))?;
        }
        root.present()?;
        Ok(true)
    }
}

/// Writes the title, and divides what is below it at `x`.
fn frame<'a>(root: &Area<'a>, title: &str, x: u32) -> Result<(Area<'a>, Area<'a>)> {
    let (head, body) = root.split_vertically(TITLE);
    head.draw(&Text::new(title.to_owned(), (14, 10), text(17)))?;
    Ok(body.split_horizontally(x))
}

fn draw_legend(area: &Area, series: &[Series]) -> Result<()> {
    for (row, Series { name, look, .. }) in series.iter().enumerate() {
        let y = 16 + 22 * row as i32;
        if look.dashed {
            for x in [8, 21, 34] {
                let style = look.colour.stroke_width(2);
                area.draw(&PathElement::new([(x, y), (x + 8, y)], style))?;
            }
        } else {
            area.draw(&PathElement::new([(8, y), (42, y)], look.colour.stroke_width(2)))?;
        }
        area.draw(&marker((25, y), *look))?;
        let style = text(13).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name.clone(), (52, y), style))?;
    }
    Ok(())
}

fn log_log<'a>(area: &Area<'a>, xs: &[f64], x_ticks: Vec<f64>, ys: &[f64]) -> Result<LogLog<'a>> {
    let (left, right) = around(xs);
    let (bottom, top) = around(ys);
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

/// With a label, and how a number is written, for both axes.
fn mesh(chart: &mut LogLog, x: (&str, Format), y: (&str, Format)) -> Result<()> {
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

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&TEXT)
}

/// Without zeros behind the point.
fn number(value: f64) -> String {
    if value >= 10_000.0 { format!("{} 000", value / 1e3) } else { value.to_string() }
}

/// From microseconds.
fn time(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} s", number(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", number(value / 1e3)),
        value => format!("{} µs", number(value)),
    }
}

fn percent(value: f64) -> String {
    format!("{} %", number(value))
}

/// A range on a logarithmic axis with some room on both sides.
fn around(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    (least / 1.25, most * 1.25)
}

/// Round numbers, some of each decade.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let steps: &[f64] = match to / from {
        ratio if ratio > 2000.0 => &[1.0],
        ratio if ratio > 5.0 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
    };
    let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let all = decades.flat_map(|decade| {
        // Divided, as 3e-1 is the nearest number to 0.3, and 3 * 0.1 is not.
        steps.iter().map(move |step| {
            if decade < 0 { step / 10f64.powi(-decade) } else { step * 10f64.powi(decade) }
        })
    });
    all.filter(|&tick| from <= tick && tick <= to).collect()
}
