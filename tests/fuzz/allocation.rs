//! How much memory a thread asks for at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// More is given to nobody: the test ends there, by name of the size, before the machine does.
const REFUSED: usize = 8 << 30;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which notes the largest piece that each thread asked for.
struct Noting;

#[global_allocator]
static NOTING: Noting = Noting;

fn note(size: usize) -> bool {
    // A thread that is ending has no such variable any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    size < REFUSED
}

// SAFETY: every call goes to the system's allocator as it is, or gives null, which means that there is no memory.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match note(layout.size()) {
            // SAFETY: the caller keeps to the contract.
            true => unsafe { System.alloc(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match note(layout.size()) {
            // SAFETY: the caller keeps to the contract.
            true => unsafe { System.alloc_zeroed(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match note(size) {
            // SAFETY: the caller keeps to the contract.
            true => unsafe { System.realloc(pointer, layout, size) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The largest piece of memory that this thread asks for in `work`, in bytes.
pub(crate) fn largest_during(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}
