//! The options of a client: the JSON object of `CONNECT`.

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

/// The options that matter to the broker. The others, such as the client's name, are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Answer each operation with `+OK`.
    pub verbose: bool,
    /// Check the subjects of messages.
    pub pedantic: bool,
    /// Send the client's messages to its own subscriptions as well.
    pub echo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { verbose: true, pedantic: true, echo: true }
    }
}

impl Options {
    /// Changes the options that are in `json`. As in nats-server, the case of the names does not
    /// matter, and `null` leaves an option as it is.
    ///
    /// # Errors
    /// `json` is not an object, or an option has a value of the wrong type.
    pub fn update(&mut self, json: &str) -> anyhow::Result<()> {
        let options: Option<Map<String, Value>> =
            serde_json::from_str(json).ok().context("Parser Error")?;
        for (name, value) in options.unwrap_or_default() {
            let switch = match name.to_ascii_lowercase().as_str() {
                "verbose" => &mut self.verbose,
                "pedantic" => &mut self.pedantic,
                "echo" => &mut self.echo,
                "protocol" => {
                    let is_known = value.is_null() || matches!(value.as_i64(), Some(0 | 1));
                    ensure!(is_known, "invalid client protocol");
                    continue;
                }
                _ => continue,
            };
            match value {
                Value::Bool(value) => *switch = value,
                Value::Null => {}
                _ => bail!("Parser Error"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_found_by_its_name_only() -> anyhow::Result<()> {
        let mut options = Options::default();
        options.update("{\"name\":\"echo\",\"lang\":\"\\\"verbose\\\":true\",\"echo\":false}")?;
        assert_eq!(options, Options { echo: false, ..Options::default() });
        options.update("{ \"VERBOSE\" : false , \"pedantic\":null, \"tls\": {\"echo\":true}}")?;
        assert_eq!(options, Options { echo: false, verbose: false, pedantic: true });
        options.update("null")?;
        options.update("{\"protocol\":1}")?;
        assert_eq!(options, Options { echo: false, verbose: false, pedantic: true });
        Ok(())
    }

    #[test]
    fn what_is_not_an_object_of_options_is_an_error() {
        for json in ["", "[]", "{verbose:true}", "{} x", "{\"echo\":\"no\"}", "{\"echo\":0}"] {
            let error = Options::default().update(json).expect_err("an error");
            assert_eq!(error.to_string(), "Parser Error", "{json}");
        }
        assert!(Options::default().update("{\"protocol\":2}").is_err());
    }
}
