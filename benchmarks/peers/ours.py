"""textok itself, from a checkpoint in the dtype that it computes in."""

NAME = "textok"
SETTINGS = "its defaults; the file holds the weights in the dtype computed in"
VERSIONS = ("textok-cpu",)
PRECISIONS = ("float32", "bfloat16", "int8")
SIDES = {"encode": "tokenizer", "decode": "detokenizer"}


def lacks(case, precision):
    return "has no VAE" if case.what == "vae" else None


def prepare(case, precision, store):
    store.make_weights(case, precision)
    if case.what == "picture":
        store.make_weights(case.halves[1], precision)


def load(case, precision, store, threads):
    from cases import GUIDANCE_SCALE, SDE_STEPS

    import textok

    kind = textok.TexTok if case.what in SIDES else textok.DiT
    side = {"side": SIDES[case.what]} if case.what in SIDES else {}  # only what is needed, as for every peer
    model = kind.from_pretrained(store.weights(case, precision), dtype=precision, threads=threads, **side)
    if case.what == "encode":
        return lambda a: model.encode(a["x"], a.get("text"))
    if case.what == "decode":
        return lambda a: model.decode(a["z"], a.get("text"), output="float32")
    if case.what == "denoise":
        return lambda a: model.denoise(a["x"], a["t"], labels=a["labels"])
    decoder = load(case.halves[1], precision, store, threads)

    def picture(a):
        how = {"noise": a["noise"]}
        if case.is_flow:
            how |= {"steps": SDE_STEPS, "solver": "sde", "step_noise": a["step_noise"]}
        z = model.sample(labels=[a["label"]], guidance_scale=GUIDANCE_SCALE, **how)
        return decoder({"z": z, "text": a.get("text")})

    return picture
