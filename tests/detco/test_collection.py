"""Photos of one's own: what is found in folders, lists and archives, and what is refused."""
import os
import tarfile
import zipfile

import pytest
from PIL import Image

from detco import collection
from detco.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """Two photos at the top, one below; hidden entries and what machines leave beside."""
    root = tmp_path / "My photos"
    for i, name in enumerate(("a.jpg", "B.PNG", "below/deep/c.jpeg", ".hidden/d.jpg", "._a.jpg", "below/@eaDir/a.jpg",
                              "__MACOSX/a.jpg", ".ipynb_checkpoints/a.jpg")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + i, 20), (30 * i, 0, 0)).save(path, "PNG" if name.endswith("PNG") else "JPEG")
    (root / "notes.txt").write_text("a.jpg\n")
    return root


def archived(photos, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for photo in sorted(photos.rglob("*")):
                file.write(photo, photo.relative_to(photos).as_posix())
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as file:
            file.add(photos, ".")
    return path


def test_a_folder_gives_its_photos_flat_or_nested(photos):
    found = collection.look([photos])
    assert found.photos == [(photos, ["B.PNG", "a.jpg", "below/deep/c.jpeg"])] and len(found) == 3
    assert found.described == ("3 photos, unlabelled; left aside: 5 hidden or made by machines, 1 no photos by their "
                               "names")


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz", "p.tgz"])
def test_an_archive_is_the_pool_that_its_folder_is(name, photos, tmp_path):
    pools = [collection.load(collection.look([source]), tmp_path / "unpacked")
             for source in (photos, archived(photos, tmp_path / name))]
    assert [pool.labels.tolist() for pool in pools] == [[-1] * 3] * 2
    assert pools[0].fingerprint == pools[1].fingerprint
    again = collection.load(collection.look([tmp_path / name]), tmp_path / "unpacked")
    assert again.fingerprint == pools[1].fingerprint and len(list((tmp_path / "unpacked").glob("p-*"))) == 1


def test_an_archives_members_stay_within_and_links_are_left(photos, tmp_path):
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as file:
        file.add(photos / "a.jpg", "fine/a.jpg")
        for name in ("../out.jpg", "fine/../../out.jpg", "..\\out.jpg"):
            file.add(photos / "a.jpg", name)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    found = collection.look([bad])
    assert [names for _, names in found.photos] == [["fine/a.jpg"]]
    place = collection.unpack(bad, tmp_path / "unpacked")
    assert [p.name for p in place.rglob("*.jpg")] == ["a.jpg"] and not list(tmp_path.rglob("out.jpg"))


def test_an_archive_that_was_stopped_is_unpacked_again(photos, tmp_path):
    archive = archived(photos, tmp_path / "p.zip")
    place = collection.unpack(archive, tmp_path / "unpacked")
    (place / collection.DONE).unlink()
    (place / "a.jpg").write_bytes(b"half")
    collection.unpack(archive, tmp_path / "unpacked")
    assert (place / "a.jpg").read_bytes() == (photos / "a.jpg").read_bytes()


def test_a_list_gives_its_paths(photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"\ufeff# mine\nMy photos/below/deep/c.jpeg\n\n{photos / 'a.jpg'}\n")
    found = collection.look([tmp_path / "list.txt"])
    assert found.photos[0][1] == sorted(["My photos/below/deep/c.jpeg", str(photos / "a.jpg")])
    assert len(collection.load(found, tmp_path)) == 2


def test_labels_are_the_first_folders_where_every_photo_lies_in_one(photos, tmp_path):
    for name in ("cat/1.jpg", "cat/old/2.jpg", "dog/3.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "set" / name)
    pool = collection.load(collection.look([tmp_path / "set"]), tmp_path)
    assert pool.classes == ["cat", "dog"] and pool.labels.tolist() == [0, 0, 1]
    both = collection.look([tmp_path / "set", photos])  # some without a folder: none has a label
    assert both.classes == [] and len(both) == 6
    assert collection.look([tmp_path / "set" / "cat"]).classes == []


def test_the_fingerprint_is_of_names_and_content(photos, tmp_path):
    def of():
        return collection.load(collection.look([photos]), tmp_path).fingerprint

    first = of()
    assert of() == first
    Image.new("RGB", (20, 20), "blue").save(photos / "a.jpg")
    changed = of()
    (photos / "a.jpg").rename(photos / "z.jpg")
    assert len({first, changed, of()}) == 3


def test_a_link_back_ends(photos):
    os.symlink(photos, photos / "below" / "again")
    os.symlink(photos.parent, photos / "up")
    assert len(collection.look([photos])) == 3


@pytest.mark.parametrize("make, said", [
    (lambda p: p / "gone", "no such folder, list or archive"),
    (lambda p: (p / "empty").mkdir() or p / "empty", "no photo"),
    (lambda p: (p / "a.csv").write_text("x") and p / "a.csv", "neither a folder nor a list"),
    (lambda p: (p / "l.txt").write_text("gone.jpg\nx.jpg") and p / "l.txt", "2 of 2 paths lead to no file (gone.jpg"),
    (lambda p: (p / "l.txt").write_bytes(b"\xff\xfe\x80") and p / "l.txt", "not text in UTF-8"),
    (lambda p: (p / "l.txt").write_bytes(b"# none\n") and p / "l.txt", "no photo there"),
    (lambda p: (p / "z.zip").write_bytes(b"PK no zip") and p / "z.zip", "cannot be read"),
    (lambda p: (p / "t.tar.gz").write_bytes(b"no tar") and p / "t.tar.gz", "cannot be read")])
def test_what_gives_no_photo_is_one_line(make, said, tmp_path):
    with pytest.raises(UserError, match="^--images ") as caught:
        collection.look([make(tmp_path)])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_photo_given_twice_is_refused(photos):
    with pytest.raises(UserError, match="3 photos given twice"):
        collection.look([photos, photos / ".." / photos.name])


def test_a_damaged_archive_is_one_line_and_nothing_is_taken_for_whole(photos, tmp_path):
    archive = archived(photos, tmp_path / "p.zip")
    data = bytearray(archive.read_bytes())
    at = data.index((photos / "a.jpg").read_bytes())
    data[at + 60] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match="cannot be read .Bad CRC-32"):
        collection.unpack(archive, tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").rglob(collection.DONE))
