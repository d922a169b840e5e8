//! Bytes that are not what was written: damaged blocks, files of others, a directory that is in use.

use super::*;

/// Changes stored bytes behind the journal's back.
fn corrupt(dir: &Path, statement: &str, first: Seq, body: &[u8]) {
    let connection = rusqlite::Connection::open(dir.join("journal.db")).unwrap();
    connection
        .execute(statement, rusqlite::params![first.cast_signed(), body])
        .unwrap();
}

#[tokio::test]
async fn a_block_flipped_at_every_byte_is_counted_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for first in [0, 3, 6] {
        journal.append(records(first..first + 3)).await.unwrap();
    }
    journal.close().await;
    let body = {
        let mut reader = store::sqlite::SqliteReader::open(dir.path()).unwrap();
        reader.blocks(3, 1).unwrap().remove(0).body
    };
    for at in 0..body.len() {
        let mut bad = body.clone();
        bad[at] ^= 1 << (at % 8);
        corrupt(
            dir.path(),
            "UPDATE block SET body = ?2 WHERE first = ?1",
            3,
            &bad,
        );
        corrupt(dir.path(), "DELETE FROM damaged WHERE ?1 = 3 OR ?2", 3, &[]);
        let journal = open(dir.path());
        for _ in 0..2 {
            let (entries, damaged) = all(&journal, 0).await;
            assert_eq!(damaged, vec![3..6], "byte {at}");
            let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).collect();
            assert_eq!(seqs, vec![0, 1, 2, 6, 7, 8], "byte {at}");
        }
        assert_eq!(journal.health().damaged_blocks, 1, "byte {at}");
        journal.close().await;
    }
    assert_eq!(inspect::verify(dir.path()).unwrap().faults.len(), 1);
}

/// Flips in the file itself, where the row's head and the chain of its pages lie too.
#[tokio::test]
async fn a_large_block_damaged_in_the_file_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let noise: Vec<u8> = (0u32..120_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for (id, bytes) in [(0, &b"first"[..]), (1, &noise), (2, b"last")] {
        let bytes = Bytes::copy_from_slice(bytes);
        journal
            .append(vec![Record {
                fingerprint: id + 1,
                bytes,
            }])
            .await
            .unwrap();
    }
    journal.close().await;
    let path = dir.path().join("journal.db");
    let good = std::fs::read(&path).unwrap();
    let starts = |page: &[u8]| {
        noise
            .windows(64)
            .step_by(64)
            .any(|part| page.windows(64).any(|w| w == part))
    };
    let pages: Vec<usize> = (1..good.len() / 16384)
        .filter(|page| starts(&good[page * 16384 + 8..page * 16384 + 400]))
        .collect();
    assert!(pages.len() > 20, "{}", pages.len());
    let (mut flips, mut noticed) = (0, 0);
    for page in pages {
        // The first four bytes of such a page point to the next one.
        for at in [0, 1, 2, 3, 4, 100, 16_000] {
            let mut bad = good.clone();
            bad[page * 16384 + at] ^= 0x41;
            std::fs::write(&path, &bad).unwrap();
            let journal = open(dir.path());
            let (entries, damaged) = all(&journal, 0).await;
            let seqs: Vec<_> = entries.iter().map(|entry| entry.seq).collect();
            flips += 1;
            noticed += damaged.len();
            if damaged.is_empty() {
                // The last page's pointer and filling carry nothing.
                assert_eq!(seqs, vec![0, 1, 2]);
                assert_eq!(&entries[1].bytes[..], &noise[..]);
            } else {
                assert_eq!(
                    (seqs, damaged),
                    (vec![0, 2], vec![1..2]),
                    "page {page} byte {at}"
                );
                assert_eq!(journal.health().damaged_blocks, 1);
            }
            journal.close().await;
        }
    }
    assert!(
        noticed * 10 > flips * 8,
        "{noticed} of {flips} flips noticed"
    );
}

#[test]
fn refuses_what_it_does_not_know_and_leaves_it_alone() {
    let refused = |dir: &Path| SqliteStore::open(dir, [7; 16]).unwrap_err().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    for (content, says) in [(&b""[..], "shorter"), (&[b'x'; 5000], "no SQLite database")] {
        std::fs::write(&path, content).unwrap();
        let text = refused(dir.path());
        assert!(text.contains(says) && text.contains("journal.db"), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    std::fs::remove_file(&path).unwrap();
    drop(SqliteStore::open(dir.path(), [7; 16]).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[63] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let text = refused(dir.path());
    assert!(
        text.contains("format 9") && text.contains("reads up to 5"),
        "{text}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(dir.path(), [7; 16]).unwrap();
    let text = SqliteStore::open(dir.path(), [7; 16])
        .unwrap_err()
        .to_string();
    assert!(text.contains("in use by another"), "{text}");
    drop(first);
    SqliteStore::open(dir.path(), [7; 16]).unwrap();
}
