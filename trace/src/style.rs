//! The colors, fonts and shapes that all figures share.

use svg::Document;
use svg::node::element::{
    Circle, Definitions, Group, Line, LinearGradient, Path, Rectangle, Stop, Style, Text,
};

use crate::call::Phase;
use crate::layout::text_width;
use crate::strace::Nanos;

/// The width of a figure: that of a README's column.
pub const WIDTH: f64 = 900.0;
/// The font size of the labels.
pub const SMALL: f64 = 11.0;

/// The page has a background of its own, so that the figure looks the same wherever it is shown.
const CSS: &str = "
text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif; font-size: 11px; fill: #1f2328; }
.page { fill: #ffffff; }
.panel { fill: #f6f8fa; }
.title { font-size: 18px; font-weight: bold; }
.idea { font-size: 13px; }
.head { font-size: 12.5px; font-weight: bold; }
.muted { fill: #59636e; }
.inside { fill: #1f2328; }
.halo { stroke: #f6f8fa; stroke-width: 4.5px; paint-order: stroke; stroke-linejoin: round; }
.on { stroke-width: 4px; paint-order: stroke; stroke-linejoin: round; }
.on.waiting-label { stroke: #ffcf70; }
.on.copying-label { stroke: #4fc08d; }
.on.neither-label { stroke: #c3cad3; }
.waiting { fill: #ffcf70; }
.copying { fill: #4fc08d; }
.neither { fill: #c3cad3; }
.from-log { fill: #f6f8fa; stroke: #1a7f55; stroke-dasharray: 3 2; }
.edge { fill: none; stroke: #ffffff; stroke-width: 0.6; }
.life { stroke: #8c959f; stroke-width: 1.5; }
.client { stroke: #2f6fd0; stroke-width: 1.5; }
.spot { fill: #2f6fd0; }
.message { stroke: #2f6fd0; stroke-width: 1.4; fill: none; }
.message-head { fill: #2f6fd0; }
.early { stroke-dasharray: 4 3; }
.signal { stroke: #c2255c; stroke-width: 1.8; fill: none; }
.signal-head { fill: #c2255c; }
.wake { stroke: #8250df; stroke-width: 1.3; stroke-dasharray: 2 2; fill: none; }
.wake-head { fill: #8250df; }
.cut { fill: #f6f8fa; }
.tear { stroke: #8c959f; stroke-width: 1; fill: none; }
.rule { stroke: #afb8c1; stroke-width: 1; }
.step { fill: #1f2328; }
.step-number { fill: #ffffff; font-weight: bold; font-size: 10.5px; }
.from-wait { stop-color: #ffcf70; }
.to-copy { stop-color: #4fc08d; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.page { fill: #0d1117; }
.panel { fill: #161b22; }
.muted { fill: #9198a1; }
.inside { fill: #10151b; }
.halo { stroke: #161b22; }
.on.waiting-label { stroke: #e3b341; }
.on.copying-label { stroke: #3fb37f; }
.on.neither-label { stroke: #848d97; }
.waiting { fill: #e3b341; }
.copying { fill: #3fb37f; }
.neither { fill: #848d97; }
.from-log { fill: #161b22; stroke: #3fb37f; }
.edge { stroke: #161b22; }
.life { stroke: #6e7681; }
.client { stroke: #6cb0ff; }
.spot { fill: #6cb0ff; }
.message { stroke: #6cb0ff; }
.message-head { fill: #6cb0ff; }
.signal { stroke: #ff7bac; }
.signal-head { fill: #ff7bac; }
.wake { stroke: #bc8cff; }
.wake-head { fill: #bc8cff; }
.cut { fill: #161b22; }
.tear { stroke: #6e7681; }
.rule { stroke: #484f58; }
.step { fill: #e6edf3; }
.step-number { fill: #0d1117; }
.from-wait { stop-color: #e3b341; }
.to-copy { stop-color: #3fb37f; }
}
";

/// Returns an empty page.
pub fn page(height: f64, name: &str) -> Document {
    let gradient = LinearGradient::new()
        .set("id", "blend")
        .add(Stop::new().set("offset", 0).set("class", "from-wait"))
        .add(Stop::new().set("offset", 1).set("class", "to-copy"));
    Document::new()
        .set("viewBox", (0, 0, WIDTH, height.ceil()))
        .set("width", WIDTH)
        .set("height", height.ceil())
        .set("role", "img")
        .set("aria-label", name)
        .add(Style::new(CSS))
        .add(Definitions::new().add(gradient))
        .add(rectangle("page", 0.0, 0.0, WIDTH, height.ceil()).set("rx", 8))
}

/// Returns the CSS class of a phase.
pub fn class(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Copying => "copying",
        Phase::Neither => "neither",
    }
}

/// Rounds to one digit after the decimal point, which keeps the files small.
pub fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

pub fn rectangle(class: &str, x: f64, y: f64, width: f64, height: f64) -> Rectangle {
    Rectangle::new()
        .set("class", class)
        .set("x", round(x))
        .set("y", round(y))
        .set("width", round(width.max(0.0)))
        .set("height", round(height))
}

/// A rectangle in which the phase changes from waiting to copying.
pub fn blend(x: f64, y: f64, width: f64, height: f64) -> Rectangle {
    Rectangle::new()
        .set("fill", "url(#blend)")
        .set("x", round(x))
        .set("y", round(y))
        .set("width", round(width))
        .set("height", round(height))
}

pub fn text(class: &str, anchor: &str, x: f64, y: f64, content: &str) -> Text {
    let text = Text::new(content).set("x", round(x)).set("y", round(y));
    let text = if class.is_empty() { text } else { text.set("class", class) };
    if anchor == "start" { text } else { text.set("text-anchor", anchor) }
}

/// A text that begins at `x`, with a background that covers what is behind it.
pub fn plate(x: f64, y: f64, content: &str) -> Group {
    let width = text_width(content, SMALL);
    Group::new()
        .add(rectangle("panel", x - 3.0, y - 11.0, width + 6.0, 15.0))
        .add(text("", "start", x, y, content))
}

pub fn line(class: &str, x1: f64, y1: f64, x2: f64, y2: f64) -> Line {
    Line::new()
        .set("class", class)
        .set("x1", round(x1))
        .set("y1", round(y1))
        .set("x2", round(x2))
        .set("y2", round(y2))
}

pub fn spot(class: &str, x: f64, y: f64, radius: f64) -> Circle {
    Circle::new().set("class", class).set("cx", round(x)).set("cy", round(y)).set("r", radius)
}

/// A place in a drawing.
pub type Point = (f64, f64);

/// A line with a head at its end.
pub struct Arrow {
    /// Its CSS class: `message`, `signal` or `wake`; with `early` it is dashed.
    pub class: &'static str,
    pub from: Point,
    pub to: Point,
}

impl Arrow {
    pub fn draw(&self) -> Group {
        const LENGTH: f64 = 7.0;
        let &Self { class, from, to } = self;
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy).max(0.1);
        let (ux, uy) = (dx / length, dy / length);
        let (bx, by) = (to.0 - ux * LENGTH, to.1 - uy * LENGTH);
        let corner = |side: f64| format!("{} {}", round(bx - uy * side), round(by + ux * side));
        let tip = format!("M{} {} L{} {} Z", round(to.0), round(to.1), corner(3.2), corner(-3.2));
        let head = class.split(' ').next().unwrap_or(class);
        Group::new()
            .add(line(class, from.0, from.1, bx, by))
            .add(Path::new().set("class", format!("{head}-head")).set("d", tip))
    }

    /// Whether it crosses the rectangle between these two corners.
    pub fn crosses(&self, (left, top): Point, (right, bottom): Point) -> bool {
        // The part of the line that is inside, in fractions of its length, for each axis.
        let inside = |from: f64, to: f64, low: f64, high: f64| {
            if (to - from).abs() < 0.01 {
                return if (low..=high).contains(&from) { (0.0, 1.0) } else { (1.0, 0.0) };
            }
            let (a, b) = ((low - from) / (to - from), (high - from) / (to - from));
            (a.min(b), a.max(b))
        };
        let (a, b) = inside(self.from.0, self.to.0, left, right);
        let (c, d) = inside(self.from.1, self.to.1, top, bottom);
        a.max(c).max(0.0) < b.min(d).min(1.0)
    }
}

/// The mark of a stretch of time that is cut: torn paper.
pub fn tear(from: f64, to: f64, top: f64, bottom: f64) -> Group {
    const TOOTH: f64 = 7.0;
    let mut left = Vec::new();
    let mut y = top;
    let mut side = 0.0;
    while y < bottom {
        left.push((side, y));
        y += TOOTH;
        side = 3.0 - side;
    }
    left.push((side, bottom));
    let points = |x: f64| -> Vec<String> {
        left.iter().map(|&(dx, y)| format!("{} {}", round(x + dx), round(y))).collect()
    };
    let (near, mut far) = (points(from), points(to - 3.0));
    let edges = format!("M{} M{}", near.join(" L"), far.join(" L"));
    far.reverse();
    let hole = format!("M{} L{} Z", near.join(" L"), far.join(" L"));
    Group::new()
        .add(Path::new().set("class", "cut").set("d", hole))
        .add(Path::new().set("class", "tear").set("d", edges))
}

/// Breaks `text` into lines that are not wider than `width`.
pub fn wrap(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let longer = if lines[last].is_empty() {
            word.to_owned()
        } else {
            format!("{} {word}", lines[last])
        };
        if text_width(&longer, size) <= width {
            lines[last] = longer;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Formats a number of bytes: `6 bytes`, `128 KiB`.
pub fn amount(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        0..8192 => format!("{bytes} bytes"),
        _ => format!("{} KiB", bytes / 1024),
    }
}

/// Formats a duration: `52 ms`, `4.2 ms`, `310 µs`.
pub fn duration(nanos: Nanos) -> String {
    let micros = nanos as f64 / 1000.0;
    match nanos {
        10_000_000.. => format!("{:.0} ms", micros / 1000.0),
        1_000_000.. => format!("{:.1} ms", micros / 1000.0),
        10_000.. => format!("{micros:.0} µs"),
        _ => format!("{micros:.1} µs"),
    }
}
