//! Memory for items: the items of many events stand one after the other, so that not each takes some of its own.

use bytes::{Bytes, BytesMut};

/// A sheet is held as long as any of its items.
const SHEET_BYTES: usize = 32 << 10;

/// Where items are written. Made for one event it takes no more than that event's items need.
#[derive(Debug, Default)]
pub struct Sheet {
    /// An item while it is being written.
    pub(super) draft: Vec<u8>,
    room: BytesMut,
    /// For how many bytes room is made at a time, at least.
    step: usize,
}

impl Sheet {
    /// For the items of many events.
    #[must_use]
    pub fn for_many() -> Self {
        Self {
            draft: Vec::with_capacity(1 << 10),
            step: SHEET_BYTES,
            ..Self::default()
        }
    }

    /// The draft, as it is now.
    pub(super) fn written(&mut self) -> Bytes {
        let bytes = self.draft.len();
        if self.room.capacity() < bytes {
            self.room = BytesMut::with_capacity(bytes.max(self.step));
        }
        self.room.extend_from_slice(&self.draft);
        self.room.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::Sheet;

    #[test]
    fn items_stand_one_after_the_other_and_keep_their_bytes() {
        let mut sheet = Sheet::for_many();
        let mut written = Vec::new();
        for item in 0..10_000 {
            sheet.draft.clear();
            sheet.draft.extend_from_slice(item.to_string().as_bytes());
            written.push(sheet.written());
        }
        for (item, bytes) in written.iter().enumerate() {
            assert_eq!(**bytes, *item.to_string().as_bytes());
        }
        assert_eq!(written[1].as_ptr(), written[0].as_ptr().wrapping_add(1));
        sheet.draft = vec![b'x'; 100_000];
        assert_eq!(sheet.written().len(), 100_000, "longer than a sheet");
    }
}
