//! A table, as Markdown or for a terminal of 80 columns.

use comfy_table::{CellAlignment, Table, presets};

use crate::terminal::COLUMNS;

/// Where a table is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    Terminal,
    Page,
}

/// A table. The first columns name the row, the others contain figures.
#[derive(Debug)]
pub struct Grid {
    /// How many columns name the row.
    keys: usize,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub fn new(keys: usize, head: Vec<String>) -> Self {
        Self { keys, head, rows: Vec::new() }
    }

    /// Adds a row. Missing cells are empty.
    pub fn add(&mut self, mut row: Vec<String>) {
        row.resize(self.head.len(), String::new());
        self.rows.push(row);
    }

    pub fn render(&self, medium: Medium) -> String {
        match medium {
            Medium::Page => self.table(presets::ASCII_MARKDOWN, 0..self.head.len()),
            Medium::Terminal => {
                let parts = self.parts().into_iter();
                let tables = parts.map(|columns| self.table(presets::NOTHING, columns));
                tables.collect::<Vec<_>>().join("\n\n")
            }
        }
    }

    /// Distributes the figures over as many tables as are necessary for the width of the terminal.
    fn parts(&self) -> Vec<Vec<usize>> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]);
            let longest = cells.chain([&self.head[column]]).map(|cell| cell.chars().count()).max();
            longest.unwrap_or(0) + 2 // a space on each side
        };
        let keys: Vec<usize> = (0..self.keys).collect();
        let keys_width: usize = keys.iter().map(|&column| width(column)).sum();
        let mut parts = Vec::new();
        let mut part = keys.clone();
        let mut used = keys_width;
        for column in self.keys..self.head.len() {
            if used + width(column) > COLUMNS && part.len() > keys.len() {
                parts.push(std::mem::replace(&mut part, keys.clone()));
                used = keys_width;
            }
            part.push(column);
            used += width(column);
        }
        parts.push(part);
        parts
    }

    fn table(&self, preset: &str, columns: impl IntoIterator<Item = usize>) -> String {
        let columns: Vec<usize> = columns.into_iter().collect();
        let select = |row: &[String]| columns.iter().map(|&i| row[i].clone()).collect::<Vec<_>>();
        let mut table = Table::new();
        table.load_preset(preset).set_header(select(&self.head));
        for row in &self.rows {
            table.add_row(select(row));
        }
        for column in table.column_iter_mut().skip(self.keys) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_table_is_divided_for_the_terminal() {
        let columns = (0..12).map(|column| format!("column {column}"));
        let mut grid = Grid::new(1, std::iter::once("server".to_owned()).chain(columns).collect());
        grid.add(vec!["blocking-echo-iterative".to_owned(), "1.00".to_owned()]);
        let text = grid.render(Medium::Terminal);
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.matches("blocking-echo-iterative").count() > 1, "{text}");
        assert!((0..12).all(|column| text.contains(&format!("column {column}"))), "{text}");
        assert_eq!(grid.render(Medium::Page).lines().count(), 3);
    }
}
