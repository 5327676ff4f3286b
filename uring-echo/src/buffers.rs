//! Provided buffers: a "buffer ring" lists free buffers, from which the kernel takes one when data arrives.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, anyhow};
use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// The number of the buffer ring. An `io_uring` may have several, but the servers need one.
const GROUP: u16 = 0;
/// A flag of receive operations: wait until the socket is readable, and only then try to receive. It
/// saves a first attempt, which finds nothing if the peer sends only after it has received the reply.
/// (Linux 5.19; the io-uring crate does not have it.)
const RECVSEND_POLL_FIRST: u16 = 1;

/// A buffer ring with buffers of equal size. Its memory is never freed, because the kernel may write
/// to it until the `io_uring` is gone.
pub struct Buffers {
    /// Shared with the kernel: `count` entries, each of which describes a free buffer.
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    size: usize,
    /// A power of two, as the kernel demands.
    count: u16,
    /// How many entries have been written, modulo 65,536. The kernel reads the entries before this
    /// index.
    tail: u16,
    available: usize,
}

/// A buffer that the kernel has filled. It belongs to the program until it is given back.
#[must_use = "a buffer that is dropped is lost to the buffer ring"]
pub struct Filled {
    id: u16,
    len: usize,
}

impl Buffers {
    /// Allocates `count` buffers of `size` bytes, and registers them with `ring`.
    ///
    /// # Errors
    /// The kernel does not permit it. The message names the call.
    pub fn register(ring: &IoUring, count: u16, size: usize) -> anyhow::Result<Self> {
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let memory = map(usize::from(count) * size)?.cast();
        let address = entries.as_ptr() as u64;
        // SAFETY: the entries are page-aligned, as many as stated, and are never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0) }
            .map_err(|error| anyhow!("io_uring_register(PBUF_RING): {error}"))?;
        let mut buffers = Self { entries, memory, size, count, tail: 0, available: 0 };
        for id in 0..count {
            buffers.give_back(Filled { id, len: 0 });
        }
        Ok(buffers)
    }

    /// Makes a receive that takes a free buffer when data arrives. If there is none, it fails with
    /// ENOBUFS.
    #[must_use]
    pub fn receive(&self, fd: Fd) -> squeue::Entry {
        let receive = opcode::Recv::new(fd, ptr::null_mut(), 0).buf_group(GROUP);
        let receive = receive.ioprio(RECVSEND_POLL_FIRST).build();
        receive.flags(squeue::Flags::BUFFER_SELECT)
    }

    /// Makes a send of the buffer. It does not wait for space (`MSG_DONTWAIT`): if space is short,
    /// it sends only a part, or fails with EAGAIN.
    #[must_use]
    pub fn send(&self, fd: Fd, filled: &Filled) -> squeue::Entry {
        let bytes = self.bytes(filled);
        let send = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32);
        send.flags(libc::MSG_DONTWAIT).build()
    }

    /// Returns the buffer that the kernel has filled for this completion, if it has filled one.
    ///
    /// # Panics
    /// The buffer is from another buffer ring.
    pub fn filled(&mut self, completion: &cqueue::Entry) -> Option<Filled> {
        let id = cqueue::buffer_select(completion.flags())?;
        assert!(id < self.count, "a buffer of another buffer ring");
        self.available -= 1;
        let len = usize::try_from(completion.result()).unwrap_or(0);
        if len == 0 {
            self.give_back(Filled { id, len }); // EOF or an error
            return None;
        }
        Some(Filled { id, len })
    }

    /// Returns the bytes that the kernel has put into the buffer.
    #[must_use]
    pub fn bytes(&self, filled: &Filled) -> &[u8] {
        // SAFETY: there are `count` buffers of `size` bytes, and this one belongs to the program.
        let start = unsafe { self.memory.add(usize::from(filled.id) * self.size) };
        // SAFETY: as above. The kernel has initialized `len` bytes, and mapped memory is zeroed.
        unsafe { slice::from_raw_parts(start.as_ptr(), filled.len) }
    }

    /// Gives a buffer back to the kernel.
    #[expect(clippy::needless_pass_by_value, reason = "the caller must not use the buffer again")]
    pub fn give_back(&mut self, filled: Filled) {
        let id = filled.id;
        // SAFETY: as in `bytes`.
        let start = unsafe { self.memory.add(usize::from(id) * self.size) };
        // SAFETY: the index is less than `count`, because `count` is a power of two.
        let mut entry = unsafe { self.entries.add(usize::from(self.tail & (self.count - 1))) };
        // SAFETY: the kernel does not read the fields below before `tail` includes the entry, and never
        // writes to them.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
        // SAFETY: this is the address of the first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the field is aligned, and both sides access it atomically only.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release); // after the entry has been written
    }

    /// Returns how many buffers the kernel has, as far as completions have shown.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available
    }
}

/// Maps zeroed memory, page-aligned, which is never unmapped.
fn map(size: usize) -> anyhow::Result<NonNull<c_void>> {
    let size = NonZeroUsize::new(size).context("no buffers")?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses an address that is not in use.
    unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }.context("mmap")
}
