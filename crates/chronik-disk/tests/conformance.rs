//! What every disk promises, checked on the real one and on the one in memory by the same code.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::sync::Arc;

use chronik_disk::{Disk, OpenMode, RealDisk, SimDisk};

fn check(expectation: impl Fn(&dyn Disk, &Path)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    expectation(&RealDisk, directory.path());
    let sim = SimDisk::new();
    sim.create_dir_all(Path::new("/data")).expect("a directory");
    expectation(&sim, Path::new("/data"));
}

#[test]
fn modes_open_what_they_say() {
    check(|disk, root| {
        let path = root.join("file");
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let error = disk.open(&path, mode).err().expect("there is no file yet");
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        assert!(!disk.exists(&path).unwrap());
        disk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(b"abc", 0).unwrap();
        assert!(disk.exists(&path).unwrap());
        let error = disk.open(&path, OpenMode::CreateNew).err().expect("the file exists");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(disk.open(&path, OpenMode::Create).unwrap().len_bytes().unwrap(), 3);
        assert!(disk.open(&path, OpenMode::Read).unwrap().write_all_at(b"x", 0).is_err());
        assert_eq!(disk.read_file(&path).unwrap(), b"abc");
        let error = disk.open(&root.join("no/such"), OpenMode::Create).err().expect("no parent");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn reads_and_writes_say_where() {
    check(|disk, root| {
        let file = disk.open(&root.join("file"), OpenMode::Create).unwrap();
        file.write_all_at(b"world", 6).unwrap();
        file.write_all_at(b"hello", 0).unwrap();
        assert_eq!(disk.read_file(&root.join("file")).unwrap(), b"hello\0world");
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 5);
        assert_eq!(&buffer[..5], b"world");
        assert_eq!(file.read_at(&mut buffer, 11).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 20).unwrap(), 0);
        file.truncate(3).unwrap();
        file.truncate(5).unwrap();
        assert_eq!(disk.read_file(&root.join("file")).unwrap(), b"hel\0\0");
        file.sync_data().unwrap();
        assert_eq!(file.len_bytes().unwrap(), 5);
    });
}

#[test]
fn vectored_writes_join_their_slices() {
    check(|disk, root| {
        let file = disk.open(&root.join("file"), OpenMode::Create).unwrap();
        // More slices than one system call takes, some of them empty.
        let parts: Vec<Vec<u8>> =
            (0..2500_usize).map(|i| vec![u8::try_from(i % 251).unwrap(); i % 4]).collect();
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_all_vectored_at(&mut slices, 7).unwrap();
        let contents = disk.read_file(&root.join("file")).unwrap();
        assert_eq!(contents[..7], [0; 7]);
        assert_eq!(contents[7..], parts.concat());
        file.write_all_vectored_at(&mut [], 0).unwrap();
        file.write_all_vectored_at(&mut [IoSlice::new(b"")], 0).unwrap();
        assert_eq!(disk.read_file(&root.join("file")).unwrap(), contents);
    });
}

#[test]
fn directories_list_rename_and_remove() {
    check(|disk, root| {
        let deep = root.join("a/b/c");
        disk.create_dir_all(&deep).unwrap();
        disk.create_dir_all(&deep).unwrap();
        disk.open(&root.join("a/z"), OpenMode::Create).unwrap().write_all_at(b"1234", 0).unwrap();
        disk.open(&root.join("a/y"), OpenMode::Create).unwrap();
        let listed: Vec<_> = disk
            .read_dir(&root.join("a"))
            .unwrap()
            .into_iter()
            .map(|entry| (entry.name, entry.is_dir, entry.len_bytes))
            .collect();
        let expected = [("b".to_owned(), true, 0), ("y".to_owned(), false, 0), ("z".to_owned(), false, 4)];
        assert_eq!(listed, expected);

        disk.rename(&root.join("a/z"), &root.join("a/y")).unwrap();
        assert!(!disk.exists(&root.join("a/z")).unwrap());
        assert_eq!(disk.read_file(&root.join("a/y")).unwrap(), b"1234");
        disk.rename(&root.join("a"), &root.join("moved")).unwrap();
        assert_eq!(disk.read_file(&root.join("moved/y")).unwrap(), b"1234");
        disk.sync_dir(root).unwrap();

        let error = disk.rename(&root.join("a"), &root.join("b")).expect_err("there is no a");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        disk.remove_file(&root.join("moved/y")).unwrap();
        assert_eq!(disk.remove_file(&root.join("moved/y")).unwrap_err().kind(), ErrorKind::NotFound);
        disk.remove_dir_all(&root.join("moved")).unwrap();
        assert!(!disk.exists(&root.join("moved/b")).unwrap());
        assert_eq!(disk.read_dir(&root.join("moved")).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(disk.read_dir(root).unwrap().is_empty());
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    check(|disk, root| {
        let path = root.join("file");
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(b"still here", 0).unwrap();
        disk.rename(&path, &root.join("other")).unwrap();
        disk.remove_file(&root.join("other")).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 10);
        assert_eq!(&buffer, b"still here");
    });
}

#[test]
fn files_are_replaced_whole() {
    check(|disk, root| {
        let path = root.join("checkpoint");
        disk.replace_file(&path, b"a longer first text").unwrap();
        disk.replace_file(&path, b"second").unwrap();
        assert_eq!(disk.read_file(&path).unwrap(), b"second");
        assert_eq!(disk.read_dir(root).unwrap().len(), 1);
    });
}

#[test]
fn a_lock_is_held_once_and_given_back() {
    check(|disk, root| {
        let path = root.join(".lock");
        let held = disk.lock(&path).unwrap();
        let error = disk.lock(&path).err().expect("the lock is held");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(error.to_string().contains(".lock"), "{error}");
        drop(held);
        drop(disk.lock(&path).unwrap());
    });
}

#[test]
fn space_is_told() {
    check(|disk, root| {
        let space = disk.space(root).unwrap();
        assert!(0 < space.usable_bytes && space.usable_bytes <= space.total_bytes);
    });
}

#[test]
fn disks_are_shared_between_threads() {
    check(|disk, root| {
        let file = disk.open(&root.join("file"), OpenMode::Create).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let file = Arc::clone(&file);
                scope.spawn(move || {
                    for place in 0..64_u64 {
                        file.write_all_at(&[thread; 16], (u64::from(thread) * 64 + place) * 16).unwrap();
                    }
                });
            }
        });
        let contents = disk.read_file(&root.join("file")).unwrap();
        let expected: Vec<u8> = (0..4_u8).flat_map(|thread| vec![thread; 1024]).collect();
        assert_eq!(contents, expected);
    });
}
