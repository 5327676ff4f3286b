//! The broker's table of subscriptions, without I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::ensure;

use super::subject::matches;

/// The most subscriptions of one client.
const MAX_SUBSCRIPTIONS: usize = 1000;

/// The subscriptions of all clients. `C` is what the broker keeps for a client.
///
/// For each message, all of them are compared with its subject. A real broker has a tree of tokens
/// instead.
#[derive(Debug)]
pub struct Subscriptions<C> {
    all: Vec<Subscription<C>>,
    /// Messages that have been routed.
    messages: u64,
}

#[derive(Debug)]
struct Subscription<C> {
    client: Arc<C>,
    /// The client's own ID of the subscription.
    sid: String,
    pattern: String,
    queue: Option<String>,
    /// Messages that it has got.
    delivered: u64,
    /// It ends after so many messages.
    max: u64,
    /// The number of its last message, as counted by `messages`.
    last: u64,
}

impl<C> Subscription<C> {
    fn is(&self, client: &Arc<C>, sid: &str) -> bool {
        Arc::ptr_eq(&self.client, client) && self.sid == sid
    }
}

impl<C> Default for Subscriptions<C> {
    fn default() -> Self {
        Self { all: Vec::new(), messages: 0 }
    }
}

impl<C> Subscriptions<C> {
    /// Adds a subscription. With a `queue`, it joins the group of that name. A client's second
    /// subscription with the same ID is ignored.
    ///
    /// # Errors
    /// The client has too many subscriptions.
    pub fn add(
        &mut self,
        client: &Arc<C>,
        sid: &str,
        pattern: &str,
        queue: Option<&str>,
    ) -> anyhow::Result<()> {
        if self.all.iter().any(|it| it.is(client, sid)) {
            return Ok(());
        }
        let count = self.all.iter().filter(|it| Arc::ptr_eq(&it.client, client)).count();
        ensure!(count < MAX_SUBSCRIPTIONS, "maximum subscriptions exceeded");
        self.all.push(Subscription {
            client: Arc::clone(client),
            sid: sid.to_owned(),
            pattern: pattern.to_owned(),
            queue: queue.map(str::to_owned),
            delivered: 0,
            max: u64::MAX,
            // As if it had just got a message, so that the other members of its group come first.
            last: self.messages,
        });
        Ok(())
    }

    /// Ends a subscription after `max` messages, counted from its beginning.
    pub fn end(&mut self, client: &Arc<C>, sid: &str, max: u64) {
        for subscription in self.all.iter_mut().filter(|it| it.is(client, sid)) {
            subscription.max = max;
        }
        self.all.retain(|it| it.delivered < it.max);
    }

    /// Ends all subscriptions of a client.
    pub fn remove(&mut self, client: &Arc<C>) {
        self.all.retain(|it| !Arc::ptr_eq(&it.client, client));
    }

    /// Returns the clients that get a message to `subject`, each with the ID of its subscription.
    /// The client `except` does not get it. In each group, one member gets it: the one that has
    /// waited for a message for the longest time.
    pub fn route(&mut self, subject: &str, except: Option<&Arc<C>>) -> Vec<(Arc<C>, String)> {
        if subject.split('.').any(str::is_empty) {
            return Vec::new(); // not even the pattern `>` matches an empty token
        }
        self.messages += 1;
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for subscription in &mut self.all {
            let is_excepted =
                except.is_some_and(|client| Arc::ptr_eq(&subscription.client, client));
            if !is_excepted && matches(&subscription.pattern, subject) {
                groups.entry(subscription.queue.clone()).or_default().push(subscription);
            }
        }
        let mut receivers = Vec::new();
        for (queue, mut members) in groups {
            if queue.is_some() {
                members.sort_by_key(|it| it.last);
                members.truncate(1);
            }
            for member in members {
                member.delivered += 1;
                member.last = self.messages;
                receivers.push((Arc::clone(&member.client), member.sid.clone()));
            }
        }
        self.all.retain(|it| it.delivered < it.max);
        receivers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: &mut Subscriptions<char>, subject: &str, except: Option<&Arc<char>>) -> String {
        let receivers = table.route(subject, except);
        let names: Vec<_> =
            receivers.iter().map(|(client, sid)| format!("{client}{sid}")).collect();
        names.join(" ")
    }

    #[test]
    fn all_plain_subscriptions_and_one_of_each_group() -> anyhow::Result<()> {
        let (mut table, [a, b, c]) = (Subscriptions::default(), ['a', 'b', 'c'].map(Arc::new));
        table.add(&a, "1", "sport.>", None)?;
        table.add(&a, "2", "sport.*", None)?;
        table.add(&b, "1", "sport.x", Some("q"))?;
        table.add(&c, "1", ">", Some("q"))?;
        assert_eq!(route(&mut table, "sport.x", None), "a1 a2 b1");
        assert_eq!(route(&mut table, "sport.x", None), "a1 a2 c1");
        assert_eq!(route(&mut table, "sport.x", Some(&a)), "b1");
        assert_eq!(route(&mut table, "sport", None), "c1");
        table.remove(&c);
        assert_eq!(route(&mut table, "sport", None), "");
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
    fn a_second_subscription_with_the_same_id_is_ignored() -> anyhow::Result<()> {
        let (mut table, a) = (Subscriptions::default(), Arc::new('a'));
        table.add(&a, "1", "x", None)?;
        table.add(&a, "1", "y", None)?;
        assert_eq!(route(&mut table, "x", None), "a1");
        assert_eq!(route(&mut table, "y", None), "");
        Ok(())
    }

    #[test]
    fn a_subject_with_an_empty_token_matches_nothing() -> anyhow::Result<()> {
        let (mut table, a) = (Subscriptions::default(), Arc::new('a'));
        table.add(&a, "1", ">", None)?;
        table.add(&a, "2", "*.*", None)?;
        for subject in ["", ".a", "a.", "a..b"] {
            assert_eq!(route(&mut table, subject, None), "", "{subject}");
        }
        Ok(())
    }

    #[test]
    fn the_subscriptions_of_one_client_are_bounded() -> anyhow::Result<()> {
        let (mut table, a) = (Subscriptions::default(), Arc::new('a'));
        for sid in 0..MAX_SUBSCRIPTIONS {
            table.add(&a, &sid.to_string(), "x", None)?;
        }
        assert!(table.add(&a, "more", "x", None).is_err());
        table.add(&Arc::new('b'), "1", "x", None)
    }
}
