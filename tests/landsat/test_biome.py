from collections import Counter

from fcd.landsat import biome


def test_list_is_complete_sorted_and_consistent():
    entries = biome.entries()
    assert len(entries) == len(biome.biomes()) == 96
    assert Counter(entry.biome for entry in entries) == dict.fromkeys(biome.BIOMES, 12)
    assert list(entries) == sorted(entries, key=lambda entry: (entry.biome, entry.scene))
    for entry in entries:
        assert entry.url.startswith("https://")
        assert entry.url.endswith(f"/{entry.scene}.tar.gz")
        assert 6000 < entry.width < 10000
        assert 6000 < entry.height < 10000


def test_biomes_of_known_scenes():
    biomes = biome.biomes()
    assert biomes["LC81490122013218LGN00"] == "Shrubland"
    assert biomes["LC80420082013220LGN00"] == "Barren"


def test_estimates():
    entry = next(e for e in biome.entries() if e.scene == "LC80420082013220LGN00")
    assert entry.archive_bytes == entry.bytes == 914473396
    # 11 bands of two bytes, B8 with four times the pixels, a mask of one byte
    assert entry.unpacked_bytes == 31 * 8911 * 8941
    unknown = next(e for e in biome.entries() if e.bytes is None)
    assert unknown.archive_bytes == unknown.unpacked_bytes // 2
    total = sum(e.unpacked_bytes for e in biome.entries())
    assert 180e9 < total < 200e9  # "about 182 GB" by those who unpacked it
