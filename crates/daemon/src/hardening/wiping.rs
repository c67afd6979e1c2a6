//! An allocator that wipes what is freed.
//!
//! `keys::Secret` wipes itself, but libraries between a KMS and a key do not know that they carry
//! one: buffers of TLS and HTTP, of formatters, of a vector that grew. With this allocator nothing
//! outlives its allocation, whoever made it.
#![allow(unsafe_code, reason = "GlobalAlloc is unsafe as a whole")]

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator; memory is wiped before it is given back.
pub struct Wiping;

// SAFETY: allocation is `System`'s. Before memory is given back to it, exactly the octets of its
// layout are overwritten, which the caller owned and uses no more. `realloc` is the default one of
// the trait: it allocates, copies and frees by the functions here, so that nothing is moved
// without the old place being wiped.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller owns `layout.size()` octets at `pointer`, until `System` has them
        // back. A plain write could be left out, since nobody reads it; explicit_bzero is not.
        unsafe {
            libc::explicit_bzero(pointer.cast(), layout.size());
            System.dealloc(pointer, layout);
        }
    }
}
