//! Who wants what: the broker's table, without I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::ensure;

use super::matches;

/// Subscriptions of one client.
const MAX: usize = 1000;

/// The subscriptions of all clients; `C` is what the broker knows a client by.
///
/// In a vector, which is read from end to end for each message: a real broker has a tree of tokens.
#[derive(Debug)]
pub struct Subscriptions<C> {
    all: Vec<Subscription<C>>,
    /// Messages that were routed.
    messages: u64,
}

#[derive(Debug)]
struct Subscription<C> {
    client: Arc<C>,
    /// The client's own name for it.
    sid: String,
    pattern: String,
    queue: Option<String>,
    delivered: u64,
    /// It ends after so many.
    max: u64,
    /// The last message that it got, as counted by `messages`.
    last: u64,
}

impl<C> Default for Subscriptions<C> {
    fn default() -> Self {
        Self { all: Vec::new(), messages: 0 }
    }
}

impl<C> Subscriptions<C> {
    /// Adds one: with a `queue`, as a member of the group of that name.
    ///
    /// # Errors
    /// For a client with too many.
    pub fn add(
        &mut self,
        client: &Arc<C>,
        sid: &str,
        pattern: &str,
        queue: Option<&str>,
    ) -> anyhow::Result<()> {
        let its_own = self.all.iter().filter(|s| Arc::ptr_eq(&s.client, client));
        ensure!(its_own.count() < MAX, "maximum subscriptions exceeded");
        self.all.push(Subscription {
            client: Arc::clone(client),
            sid: sid.to_owned(),
            pattern: pattern.to_owned(),
            queue: queue.map(str::to_owned),
            delivered: 0,
            max: u64::MAX,
            // It has waited for nothing yet: the other members of its group come first.
            last: self.messages,
        });
        Ok(())
    }

    /// Ends one, once it got `max` messages in all.
    pub fn end(&mut self, client: &Arc<C>, sid: &str, max: u64) {
        for s in &mut self.all {
            if Arc::ptr_eq(&s.client, client) && s.sid == sid {
                s.max = max;
            }
        }
        self.all.retain(|s| s.delivered < s.max);
    }

    /// Ends all of a client's.
    pub fn leave(&mut self, client: &Arc<C>) {
        self.all.retain(|s| !Arc::ptr_eq(&s.client, client));
    }

    /// Who gets a message to `subject` (not `except`, where one is given), and under which name. Of
    /// a group it is the member that got none for the longest time.
    pub fn route(&mut self, subject: &str, except: Option<&Arc<C>>) -> Vec<(Arc<C>, String)> {
        self.messages += 1;
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for s in &mut self.all {
            let excepted = except.is_some_and(|client| Arc::ptr_eq(&s.client, client));
            if !excepted && matches(&s.pattern, subject) {
                groups.entry(s.queue.clone()).or_default().push(s);
            }
        }
        let mut takers = Vec::new();
        for (queue, mut members) in groups {
            if queue.is_some() {
                members.sort_by_key(|s| s.last);
                members.truncate(1);
            }
            for s in members {
                s.delivered += 1;
                s.last = self.messages;
                takers.push((Arc::clone(&s.client), s.sid.clone()));
            }
        }
        self.all.retain(|s| s.delivered < s.max);
        takers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: &mut Subscriptions<char>, subject: &str, except: Option<&Arc<char>>) -> String {
        let takers = table.route(subject, except);
        let names: Vec<_> = takers.iter().map(|(client, sid)| format!("{client}{sid}")).collect();
        names.join(" ")
    }

    #[test]
    fn all_plain_subscriptions_and_one_of_each_group() -> anyhow::Result<()> {
        let (mut table, [a, b, c]) = (Subscriptions::default(), ['a', 'b', 'c'].map(Arc::new));
        table.add(&a, "1", "news.>", None)?;
        table.add(&a, "2", "news.*", None)?;
        table.add(&b, "1", "news.x", Some("q"))?;
        table.add(&c, "1", ">", Some("q"))?;
        assert_eq!(route(&mut table, "news.x", None), "a1 a2 b1");
        assert_eq!(route(&mut table, "news.x", None), "a1 a2 c1");
        assert_eq!(route(&mut table, "news.x", Some(&a)), "b1");
        assert_eq!(route(&mut table, "news", None), "c1");
        table.leave(&c);
        assert_eq!(route(&mut table, "news", None), "");
        Ok(())
    }

    #[test]
    fn a_subscription_ends_at_once_or_after_so_many() -> anyhow::Result<()> {
        let (mut table, a) = (Subscriptions::default(), Arc::new('a'));
        table.add(&a, "1", "x", None)?;
        table.add(&a, "2", "x", None)?;
        table.route("x", None);
        table.end(&a, "1", 3);
        table.end(&a, "2", 1);
        assert_eq!(route(&mut table, "x", None), "a1");
        assert_eq!(route(&mut table, "x", None), "a1");
        assert_eq!(route(&mut table, "x", None), "");
        Ok(())
    }

    #[test]
    fn the_subscriptions_of_one_client_are_bounded() -> anyhow::Result<()> {
        let (mut table, a) = (Subscriptions::default(), Arc::new('a'));
        for _ in 0..MAX {
            table.add(&a, "1", "x", None)?;
        }
        assert!(table.add(&a, "1", "x", None).is_err());
        table.add(&Arc::new('b'), "1", "x", None)
    }
}
