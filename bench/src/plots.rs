//! The figures as SVG plots.

mod chart;

use std::path::Path;

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::subjects::{Origin, POLLING, REFERENCE, Service, Subject};
use crate::summary::{Measured, Summary};
use crate::tables::Report;
use crate::workloads::{SMALL, Workload};
use chart::{
    Format, HEIGHT, LEGEND, Look, Series, TEXT, TITLE, WIDTH, draw_legend, draw_mesh, frame,
    log_log, marker, number, percent, text, ticks, time, with_margin,
};

type Figure = fn(&Measured) -> Option<f64>;

/// The baseline that is drawn where all of them lie close together.
const DRAWN_BASELINE: &str = "baseline-epoll";
/// Height of a row, in a plot with a row for each server.
const ROW: u32 = 24;

/// A plot that was drawn.
pub struct Plot {
    /// The name of its file, without `.svg`.
    pub name: &'static str,
    pub title: &'static str,
}

const CPU: Figure = |measured| measured.median(|figures| figures.cpu_us);
const P50: Figure = |measured| measured.median(|figures| figures.p50_us);
const P99: Figure = |measured| measured.median(|figures| figures.p99_us);
const CALLS: Figure = |measured| measured.calls;
const MEMORY: Figure = |measured| measured.median(|figures| figures.idle_memory);

/// Draws the plots for which there are figures.
///
/// # Errors
/// Fails if a file cannot be written.
pub fn draw(dir: &Path, report: Report) -> Result<Vec<Plot>> {
    let Report { summary, workloads, subjects, .. } = report;
    let plots = Plots { dir, summary, workloads, subjects };
    let mut drawn = Vec::new();
    let mut add = |plot: Plot, draw: &dyn Fn(&Plot) -> Result<bool>| -> Result<()> {
        if draw(&plot)? {
            drawn.push(plot);
        }
        Ok(())
    };
    let plot = |name, title| Plot { name, title };
    add(plot("idle", "CPU time per message with idle connections"), &|it| plots.idle(it))?;
    add(plot("active", "CPU time per message with all connections active"), &|it| {
        plots.active(it, &[("CPU time per message", CPU)])
    })?;
    add(plot("latency", "Latency with all connections active"), &|it| {
        plots.active(it, &[("median", P50), ("99th percentile", P99)])
    })?;
    add(plot("calls", "System calls per message"), &|it| plots.calls(it))?;
    let title = "nonblocking-echo: a longer pause takes less CPU and replies later";
    add(plot("pause", title), &|it| plots.pause(it))?;
    add(plot("memory", "Memory of the process per idle connection"), &|it| plots.memory(it))?;
    let title = "Chat: cost of a line for each client that receives it";
    add(plot("chat", title), &|it| plots.chat(it))?;
    let title = "While another client computes for 10 ms at a time: latency of a line";
    add(plot("compute", title), &|it| plots.compute(it))?;
    Ok(drawn)
}

/// The panels of a plot with a row for each server, and the workloads in them.
struct Dots<'a> {
    service: Service,
    workloads: &'a [(String, Workload)],
    panels: &'a [(&'a str, Figure)],
    format: Format,
}

struct Plots<'a> {
    dir: &'a Path,
    summary: &'a Summary,
    workloads: &'a [Workload],
    subjects: &'a [&'a Subject],
}

impl Plots<'_> {
    /// Returns a line for each subject that `includes`: the figure over the value on the axis.
    fn series(
        &self,
        includes: impl Fn(&Subject) -> bool,
        axis: impl Fn(Workload) -> Option<usize>,
        figure: Figure,
    ) -> Vec<Series> {
        let mut series = Vec::new();
        for subject in self.subjects.iter().filter(|subject| includes(subject)) {
            let mut points = Vec::new();
            for &workload in self.workloads {
                let x = axis(workload);
                let y = self.value(workload, subject, figure);
                if let (Some(x), Some(y)) = (x, y) {
                    points.push((x as f64, y));
                }
            }
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            if points.len() > 1 {
                let name = subject.name.to_owned();
                series.push(Series { name, look: Look::of(subject), points });
            }
        }
        // The legend has the same order as the ends of the lines.
        let last = |series: &Series| series.points.last().map_or(0.0, |point| point.1);
        series.sort_by(|a, b| last(b).total_cmp(&last(a)));
        series
    }

    /// Returns a figure that a logarithmic axis can show.
    fn value(&self, workload: Workload, subject: &Subject, figure: Figure) -> Option<f64> {
        let measured = self.summary.measured(workload, subject)?;
        figure(&measured).filter(|&value| value > 0.0)
    }

    fn idle(&self, plot: &Plot) -> Result<bool> {
        let axis = |workload| match workload {
            Workload::Echo { active: 1, idle, size: SMALL } => Some(1 + idle),
            _ => None,
        };
        let series = self.series(|_| true, axis, CPU);
        self.lines(plot, &[("connections, one of them active", "CPU time per message", series)])
    }

    fn active(&self, plot: &Plot, panels: &[(&'static str, Figure)]) -> Result<bool> {
        let axis = |workload| match workload {
            Workload::Echo { active, idle: 0, size: SMALL } => Some(active),
            _ => None,
        };
        let includes = |subject: &Subject| {
            subject.origin != Origin::Baseline || subject.name == DRAWN_BASELINE
        };
        let panels = panels.iter().map(|&(label, figure)| {
            ("active connections", label, self.series(includes, axis, figure))
        });
        self.lines(plot, &panels.collect::<Vec<_>>())
    }

    /// Draws lines over the number of connections, in one or more panels with one legend.
    fn lines(&self, plot: &Plot, panels: &[(&str, &str, Vec<Series>)]) -> Result<bool> {
        if panels.iter().any(|(_, _, series)| series.is_empty()) {
            return Ok(false);
        }
        let path = self.dir.join(format!("{}.svg", plot.name));
        let root = SVGBackend::new(&path, (WIDTH, HEIGHT)).into_drawing_area();
        let (area, legend) = frame(&root, plot.title, WIDTH - LEGEND)?;
        draw_legend(&legend, &panels[panels.len() - 1].2)?;
        for (area, (x_label, y_label, series)) in
            area.split_evenly((1, panels.len())).iter().zip(panels)
        {
            let xs: Vec<_> = series.iter().flat_map(|series| &series.points).map(|p| p.0).collect();
            let ys: Vec<_> = series.iter().flat_map(|series| &series.points).map(|p| p.1).collect();
            let mut ticks = xs.clone();
            ticks.sort_by(f64::total_cmp);
            ticks.dedup();
            let mut chart = log_log(area, &xs, ticks, &ys)?;
            draw_mesh(&mut chart, (x_label, number), (y_label, time))?;
            for Series { look, points, .. } in series {
                let style = look.color.stroke_width(2);
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

    fn calls(&self, plot: &Plot) -> Result<bool> {
        let workload = |active| {
            let workload = Workload::Echo { active, idle: 0, size: SMALL };
            (format!("{active} active"), workload)
        };
        self.dots(
            plot,
            &Dots {
                service: Service::Echo,
                workloads: &[workload(1), workload(64)],
                panels: &[("system calls per message", CALLS)],
                format: number,
            },
        )
    }

    fn memory(&self, plot: &Plot) -> Result<bool> {
        let workload = |idle| {
            let workload = Workload::Echo { active: 1, idle, size: SMALL };
            (format!("of {idle} idle"), workload)
        };
        self.dots(
            plot,
            &Dots {
                service: Service::Echo,
                workloads: &[workload(900), workload(5000)],
                panels: &[("bytes", MEMORY)],
                format: number,
            },
        )
    }

    fn chat(&self, plot: &Plot) -> Result<bool> {
        let workload = |clients: usize| (format!("{clients} clients"), Workload::Chat { clients });
        self.dots(
            plot,
            &Dots {
                service: Service::Chat,
                workloads: &[workload(100), workload(1000)],
                panels: &[
                    ("CPU time per client", CPU),
                    ("median, until the last client has it", P50),
                ],
                format: time,
            },
        )
    }

    fn compute(&self, plot: &Plot) -> Result<bool> {
        let workload =
            |cores, name: &str| (name.to_owned(), Workload::Compute { milliseconds: 10, cores });
        self.dots(
            plot,
            &Dots {
                service: Service::Chat,
                workloads: &[workload(1, "one core"), workload(2, "two cores")],
                panels: &[("median", P50), ("99th percentile", P99)],
                format: time,
            },
        )
    }

    /// Draws a row for each server, with a marker for each workload.
    fn dots(&self, plot: &Plot, dots: &Dots) -> Result<bool> {
        let &Dots { service, workloads, panels, format } = dots;
        let subjects: Vec<&Subject> = (self.subjects.iter().copied())
            .filter(|subject| subject.service == service)
            .filter(|subject| {
                let mut values = workloads.iter().map(|it| self.value(it.1, subject, panels[0].1));
                values.any(|value| value.is_some())
            })
            .collect();
        if subjects.is_empty() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{}.svg", plot.name));
        let height = TITLE + 70 + ROW * subjects.len() as u32;
        let root = SVGBackend::new(&path, (WIDTH, height)).into_drawing_area();
        let (area, legend) = frame(&root, plot.title, WIDTH - 140)?;
        let mut in_legend = Vec::new();
        for (index, (name, _)) in workloads.iter().enumerate() {
            let look = Look::of_workload(index);
            in_legend.push(Series { name: name.clone(), look, points: Vec::new() });
        }
        draw_legend(&legend, &in_legend)?;

        let (names, area) = area.split_horizontally(185);
        let mut row_middles = Vec::new();
        for (area, &(label, figure)) in area.split_evenly((1, panels.len())).iter().zip(panels) {
            let mut all = Vec::new();
            for subject in &subjects {
                all.extend(workloads.iter().filter_map(|it| self.value(it.1, subject, figure)));
            }
            let rows = subjects.len() as f64;
            let (from, to) = with_margin(&all);
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
            row_middles.clear();
            for (index, subject) in subjects.iter().enumerate() {
                let row = index as f64;
                let guide = [(from, row), (to, row)];
                chart.draw_series(LineSeries::new(guide, TEXT.mix(0.25)))?;
                for (index, &(_, workload)) in workloads.iter().enumerate() {
                    if let Some(value) = self.value(workload, subject, figure) {
                        // A little apart, so that equal values are both visible.
                        let at = (value, row + [-0.15, 0.15][index]);
                        chart.draw_series([marker(at, Look::of_workload(index))])?;
                    }
                }
                row_middles.push(chart.backend_coord(&(from, row)).1 - TITLE as i32);
            }
        }
        for (subject, middle) in subjects.iter().zip(row_middles) {
            let style = text(13).pos(Pos::new(HPos::Right, VPos::Center));
            names.draw(&Text::new(subject.name, (177, middle), style))?;
        }
        root.present()?;
        Ok(true)
    }

    /// Draws CPU time when idle over latency, with a marker for each pause.
    fn pause(&self, plot: &Plot) -> Result<bool> {
        let points = |name: &'static str| {
            let subject = self.subjects.iter().find(|subject| subject.name == name)?;
            let points: Vec<_> = self
                .workloads
                .iter()
                .filter_map(|&workload| {
                    let Workload::Pause { pause } = workload else { return None };
                    let measured = self.summary.measured(workload, subject)?;
                    // No CPU time is drawn at the bottom: a logarithmic axis has no zero.
                    let cpu = measured.median(|figures| figures.idle_cpu)?.max(1e-4);
                    Some((P50(&measured)?, cpu * 100.0, pause))
                })
                .collect();
            (!points.is_empty()).then_some((subject, points))
        };
        let series: Vec<_> = [POLLING, REFERENCE].into_iter().filter_map(points).collect();
        if series.is_empty() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{}.svg", plot.name));
        let root = SVGBackend::new(&path, (WIDTH, HEIGHT)).into_drawing_area();
        let (area, legend) = frame(&root, plot.title, WIDTH - LEGEND)?;
        let in_legend = series.iter().map(|(subject, _)| {
            let name = subject.name.to_owned();
            Series { name, look: Look::of(subject), points: Vec::new() }
        });
        draw_legend(&legend, &in_legend.collect::<Vec<_>>())?;
        let all = || series.iter().flat_map(|(_, points)| points);
        let xs: Vec<_> = all().map(|point| point.0).collect();
        let ys: Vec<_> = all().map(|point| point.1).collect();
        let (from, to) = with_margin(&xs);
        // The label of the last marker needs more room.
        let mut chart = log_log(&area, &[from, to * 1.6], ticks(from, to * 1.6), &ys)?;
        draw_mesh(&mut chart, ("median latency", time), ("CPU when idle", percent))?;
        for (subject, points) in &series {
            let look = Look::of(subject);
            let line = points.iter().map(|point| (point.0, point.1));
            chart.draw_series(LineSeries::new(line.clone(), look.color.stroke_width(2)))?;
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
