//! The room that several loops share, and a mailbox for each loop.
//!
//! Each client belongs to one loop, which alone reads from it and writes to it. A loop that has
//! read a line passes it to the room, which adds it to the output of all clients under one lock. So
//! all clients get the lines in the same order. Then the room lists the clients that have output
//! now, and each of them is put into the mailbox of its loop. If that loop has not been notified
//! already, it is: through its eventfd, after the lock has been released. So however many lines
//! arrive before the loop takes its mail, they cost one write to the eventfd.
//!
//! Each loop has an equal part of the [`INPUT_BUDGET`]. When a loop has used up its part, it processes
//! no input until all loops have offered all output to the sockets. So a loop that computes for long
//! slows down a flood in another loop. Otherwise the output of its clients would grow meanwhile, until
//! they are disconnected.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::time::Instant;

use common::chat::Output;
use common::chat::{Computation, Effects, INPUT_BUDGET, Id, Input, READ_SIZE, Room, WriterStep};
use common::lock;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// The room and the mailboxes. `C` is a connection that has been accepted.
pub struct SharedRoom<C> {
    chat: Mutex<Chat<C>>,
    budget: usize,
    /// Notify the loops, which are numbered from 0.
    notifiers: Vec<EventFd>,
}

/// What the lock of a [`SharedRoom`] protects.
pub struct Chat<C> {
    room: Room,
    effects: Effects,
    mailboxes: Vec<Mailbox<C>>,
    /// The part of the [`INPUT_BUDGET`] that each loop has.
    budget: usize,
    /// Loops to notify when the lock is released.
    to_notify: Vec<usize>,
}

struct Mailbox<C> {
    mail: Mail<C>,
    /// The loop has been notified, and has not taken its mail since.
    notified: bool,
    /// Some clients of the loop have output that has not been offered to their sockets.
    has_output: bool,
    /// The loop has input that waits for the budget.
    has_input: bool,
    /// How much of its budget the loop has used since all output was last offered to the sockets.
    used: usize,
}

/// What there is for a loop to do.
pub struct Mail<C> {
    /// New clients. A client is here before it is in one of the other lists.
    pub connections: Vec<(Id, C)>,
    /// Clients that have output.
    pub write: Vec<Id>,
    /// Clients whose connection must be closed.
    pub close: Vec<Id>,
    /// Clients that are idle, unless input from them is unread.
    pub idle: Vec<Id>,
    /// When a client will be idle, at the earliest.
    pub deadline: Option<Instant>,
}

impl<C> SharedRoom<C> {
    /// Makes the mailboxes of `loops` loops.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new(room: Room, loops: usize) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let notifiers: nix::Result<_> = (0..loops).map(|_| EventFd::from_flags(flags)).collect();
        let budget = INPUT_BUDGET / loops;
        let chat = Chat {
            room,
            effects: Effects::default(),
            mailboxes: (0..loops).map(|_| Mailbox::default()).collect(),
            budget,
            to_notify: Vec::new(),
        };
        Ok(Self { chat: Mutex::new(chat), budget, notifiers: notifiers? })
    }

    /// Returns how much input a loop may process before all output is offered to the sockets.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Returns the size of a read, at most [`READ_SIZE`].
    #[must_use]
    pub fn read_size(&self) -> usize {
        self.budget.min(READ_SIZE)
    }

    /// Returns the file descriptor that becomes readable when there is mail for a loop. Watch its
    /// edges: nobody reads from it.
    #[must_use]
    pub fn notifier(&self, number: usize) -> BorrowedFd<'_> {
        self.notifiers[number].as_fd()
    }

    /// Locks the room for a call, and then notifies the loops that have new mail.
    pub fn with<T>(&self, call: impl FnOnce(&mut Chat<C>) -> T) -> T {
        let mut chat = lock(&self.chat);
        let result = call(&mut chat);
        let to_notify = mem::take(&mut chat.to_notify);
        drop(chat);
        for number in to_notify {
            // It fails only if its counter overflows, after 2^64 calls.
            let _ = self.notifiers[number].write(1);
        }
        result
    }
}

impl<C> Chat<C> {
    /// A client has connected. Puts it into the mailbox of its loop.
    ///
    /// The clients go to the loops in turn, by their ids, so every thread knows the loop of a client
    /// without a table.
    pub fn join(&mut self, connection: C) {
        let id = self.room.join(Instant::now(), &mut self.effects);
        self.mailbox(id).mail.connections.push((id, connection));
        self.distribute();
    }

    /// Returns whether the budget of loop `number` allows it to process `input` now.
    pub fn may_process(&mut self, number: usize, input: &Input) -> bool {
        if !self.has_output() {
            self.mailboxes[number].used = 0;
        }
        self.mailboxes[number].used + input.byte_count() <= self.budget
    }

    /// Passes input that loop `number` has read to the room: [`Room::process`].
    pub fn process(&mut self, number: usize, id: Id, input: &mut Input) -> Option<Computation> {
        let length = input.byte_count();
        let computation = self.room.process(id, input, Instant::now(), &mut self.effects);
        let cost = self.effects.take_charge(length - input.byte_count());
        self.mailboxes[number].used += cost;
        self.distribute();
        computation
    }

    /// Passes the result of a computation to the room.
    pub fn reply(&mut self, id: Id, result: &str) {
        self.room.reply(id, result, &mut self.effects);
        self.distribute();
    }

    /// A client in [`Mail::idle`] has no unread input.
    pub fn dismiss(&mut self, id: Id) {
        self.room.dismiss(id, Instant::now(), &mut self.effects);
        self.distribute();
    }

    /// For the writer of a client: [`Room::take_output`].
    pub fn take_output(&mut self, id: Id, written: usize, output: &mut Output) -> WriterStep {
        self.room.take_output(id, written, output)
    }

    /// Loop `number` takes its mail. `has_output`: some of its clients have output that has not been
    /// offered to their sockets. `has_input`: it has input that waits for the budget.
    pub fn take_mail(&mut self, number: usize, has_output: bool, has_input: bool) -> Mail<C> {
        let idle = self.room.expire(Instant::now(), &mut self.effects);
        for id in idle {
            self.mailbox(id).mail.idle.push(id);
        }
        self.distribute();
        let mailbox = &mut self.mailboxes[number];
        mailbox.notified = false;
        mailbox.has_output |= has_output;
        mailbox.has_input = has_input;
        let mail = mem::take(&mut mailbox.mail);
        self.to_notify.retain(|&other| other != number);
        Mail { deadline: self.room.next_deadline(), ..mail }
    }

    /// Loop `number` has offered all output that it knows of to the sockets. If that was the last
    /// output of all loops, those that have input may process it.
    pub fn has_written(&mut self, number: usize) {
        let mailbox = &mut self.mailboxes[number];
        mailbox.has_output = !mailbox.mail.write.is_empty();
        if self.has_output() {
            return;
        }
        for number in 0..self.mailboxes.len() {
            self.mailboxes[number].used = 0;
            if mem::take(&mut self.mailboxes[number].has_input) {
                self.notify(number);
            }
        }
    }

    fn has_output(&self) -> bool {
        self.mailboxes.iter().any(|mailbox| mailbox.has_output)
    }

    /// Puts what the room asks for into the mailboxes of the clients' loops.
    fn distribute(&mut self) {
        let Effects { write, close, .. } = &mut self.effects;
        let (write, close) = (mem::take(write), mem::take(close));
        for &id in &write {
            let mailbox = self.mailbox(id);
            mailbox.mail.write.push(id);
            mailbox.has_output = true;
        }
        for &id in &close {
            self.mailbox(id).mail.close.push(id);
        }
    }

    /// Returns the mailbox of a client's loop, which is notified.
    fn mailbox(&mut self, id: Id) -> &mut Mailbox<C> {
        let number = id.0 as usize % self.mailboxes.len();
        self.notify(number);
        &mut self.mailboxes[number]
    }

    fn notify(&mut self, number: usize) {
        if !mem::replace(&mut self.mailboxes[number].notified, true) {
            self.to_notify.push(number);
        }
    }
}

impl<C> Default for Mailbox<C> {
    fn default() -> Self {
        Self {
            mail: Mail::default(),
            notified: false,
            has_output: false,
            has_input: false,
            used: 0,
        }
    }
}

impl<C> Default for Mail<C> {
    fn default() -> Self {
        Self {
            connections: Vec::new(),
            write: Vec::new(),
            close: Vec::new(),
            idle: Vec::new(),
            deadline: None,
        }
    }
}

#[cfg(test)]
mod tests;
