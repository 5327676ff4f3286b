//! The figures, the comparison and the text in the terminal.

use super::{all_recorded, recorded};
use crate::layout::{Axis, MinWidth, text_width};
use crate::style::{Arrow, WIDTH};
use crate::{comparison, figure, text};

#[test]
fn an_axis_keeps_the_order_and_the_minimum_widths() {
    let minimum = |from, to, width| MinWidth { from, to, width, rank: 1 };
    let minimums = [minimum(0, 10, 60.0), minimum(10, 12, 40.0), minimum(10, 60_000_000, 90.0)];
    let axis = Axis::new(vec![60_000_000, 0, 10, 12, 12], &minimums, 100.0, 400.0);
    let places = [0, 10, 12, 60_000_000].map(|time| axis.place(time));
    assert!(places.is_sorted());
    assert!((places[0] - 100.0).abs() < 0.01 && (places[3] - 500.0).abs() < 0.01);
    assert!(places[1] - places[0] >= 60.0 && places[2] - places[1] >= 40.0);
    // The long stretch is cut.
    assert_eq!(axis.cuts().count(), 1);
}

#[test]
fn without_room_the_least_important_width_is_dropped() {
    let minimum = |from, rank| MinWidth { from, to: from + 1, width: 60.0, rank };
    let minimums = [minimum(0, 1), minimum(1, 5), minimum(2, 1)];
    let axis = Axis::new(vec![0, 1, 2, 3], &minimums, 0.0, 130.0);
    assert!(axis.place(1) >= 59.0 && axis.place(3) - axis.place(2) >= 59.0);
}

#[test]
fn an_arrow_knows_which_rectangles_it_crosses() {
    let arrow = Arrow { class: "message", from: (0.0, 0.0), to: (100.0, 50.0) };
    assert!(arrow.crosses((40.0, 15.0), (60.0, 30.0)));
    assert!(arrow.crosses((0.0, 0.0), (100.0, 50.0)));
    assert!(!arrow.crosses((40.0, 35.0), (60.0, 50.0)), "it passes above");
    assert!(!arrow.crosses((104.0, 40.0), (120.0, 60.0)), "it ends before");
    let upright = Arrow { class: "wake", from: (10.0, 50.0), to: (10.0, 0.0) };
    assert!(upright.crosses((5.0, 10.0), (15.0, 20.0)));
    assert!(!upright.crosses((12.0, 10.0), (15.0, 20.0)));
}

/// A label in a figure.
#[derive(Debug)]
struct Label<'a> {
    y: f64,
    left: f64,
    right: f64,
    text: &'a str,
}

fn labels(figure: &str) -> Vec<Label<'_>> {
    let texts = figure.split("<text").skip(1).filter_map(|rest| rest.split_once("</text>"));
    let label = |(element, _): (_, &str)| -> Label {
        let element: &str = element;
        let (tag, text) = element.split_once('>').expect("a tag ends");
        let attribute = |name: &str| {
            let start = tag.split_once(&format!(" {name}=\""))?.1;
            start.split('"').next()
        };
        let number = |name| attribute(name).and_then(|number| number.parse::<f64>().ok());
        let size = match attribute("class").unwrap_or_default() {
            "title" => 18.0 * 1.1,
            "idea" => 13.0,
            "head" => 12.5 * 1.1,
            _ => 11.0,
        };
        let x = number("x").expect("a text has an x coordinate");
        let y = number("y").expect("a text has a y coordinate");
        let text = text.trim();
        let width = text_width(text, size);
        let left = match attribute("text-anchor") {
            Some("middle") => x - width / 2.0,
            Some("end") => x - width,
            _ => x,
        };
        Label { y, left, right: left + width, text }
    };
    texts.map(label).collect()
}

/// Left, top, right and bottom of each mark of a cut.
fn cuts(figure: &str) -> Vec<[f64; 4]> {
    let paths =
        figure.split("class=\"cut\" d=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let cut = |path: &str| {
        let numbers = path.split(|c: char| !c.is_ascii_digit() && c != '.');
        let numbers: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
        let range = |from: usize| {
            let side = || numbers.iter().skip(from).step_by(2).copied();
            (side().fold(f64::INFINITY, f64::min), side().fold(0.0, f64::max))
        };
        let ((left, right), (top, bottom)) = (range(0), range(1));
        [left, top, right, bottom]
    };
    paths.map(cut).collect()
}

#[test]
fn no_label_overlaps_another_label_or_a_cut_or_leaves_the_page() {
    let timelines = all_recorded();
    let mut figures: Vec<(&str, String)> = Vec::new();
    for timeline in &timelines {
        figures.push((timeline.server.name(), figure::draw(timeline).to_string()));
    }
    figures.push(("comparison", comparison::draw(&timelines).to_string()));
    for (name, figure) in &figures {
        let labels = labels(figure);
        assert!(labels.len() > 20, "{name}");
        for label in &labels {
            let is_inside = label.left >= 0.0 && label.right <= WIDTH;
            assert!(is_inside, "{name}: {:?} leaves the page", label.text);
        }
        for [left, top, right, bottom] in cuts(figure) {
            let overlaps = |label: &&Label| {
                (top..bottom).contains(&label.y) && label.left < right && label.right > left
            };
            let over = labels.iter().find(overlaps);
            assert!(over.is_none(), "{name}: {over:?} overlaps a cut at {left}");
        }
        for (index, label) in labels.iter().enumerate() {
            for other in &labels[..index] {
                let is_beside = label.left >= other.right - 0.5 || other.left >= label.right - 0.5;
                let is_apart = is_beside || (label.y - other.y).abs() >= 10.0;
                assert!(is_apart, "{name}: {:?} and {:?} overlap", label.text, other.text);
            }
        }
    }
}

#[test]
fn the_text_shows_wait_read_and_write_in_this_order() {
    let text = text::render(&recorded!("epoll-echo"));
    let (_, part) = text.split_once("2. Silence").expect("the part is there");
    let at = |what: &str| part.find(what).unwrap_or_else(|| panic!("no {what:?} in {part}"));
    let order =
        ["client A", "epoll_wait", "recvfrom(A) = 6", "sendto(A) = 6", "receives 6 bytes"].map(at);
    assert!(order.is_sorted(), "{part}");
}

#[test]
fn the_text_fits_80_columns() {
    for timeline in all_recorded() {
        let colored = text::render(&timeline);
        let plain = anstream::adapter::strip_str(&colored).to_string();
        assert!(plain.lines().count() > 20, "{plain}");
        for line in plain.lines() {
            let width = line.chars().count();
            assert!(width <= 80, "{}: {width} columns: {line:?}", timeline.server.name());
        }
    }
}
