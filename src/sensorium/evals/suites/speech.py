"""Speech heard (error rates), and speech made (error rates of a recogniser that is not the model)."""

from collections.abc import Callable, Sequence

import numpy as np

from sensorium.evals.baselines import Example, Majority, best_options, mel_neighbour, shuffled
from sensorium.evals.cases import Medium, signal_of, speech_cases
from sensorium.evals.judges import hear
from sensorium.evals.metrics.speech import ErrorRate, character_error_rate, word_error_rate
from sensorium.evals.results import Result
from sensorium.evals.runner import CONTROL, Maker, Run, Scored
from sensorium.evals.sound import mel_distance, vocoder_ceiling
from sensorium.generate.speech import CHARS_PER_S
from sensorium.media.audio import SAMPLE_RATE, griffin_lim
from sensorium.media.parts import Audio

_REAL, _CEILING = "ceiling: real recordings", "ceiling: real through the vocoder"


def run_asr(run: Run) -> tuple[list[Result], list[Scored]]:
    """What is heard in recordings, beside a deaf model and neighbours."""
    cases = speech_cases(run.rows, run.options.prompt)
    said = [case.answers[0] for case in cases]
    heard = run.ask("listening", {f"heard {case.id}": case.prompt for case in cases})
    blind = run.ask("answering deaf", {f"blind {case.id}": case.words for case in cases})
    _note_long_sounds(run, [case.media[0] for case in cases])
    others = {"blind (sound removed)": blind}
    if run.known:
        asked = [Example("", signal=signal_of(case.media[0])) for case in cases]
        options = sorted({example.answer for example in run.known})
        for rival in (Majority(), mel_neighbour()):
            others[rival.name] = best_options(rival.scores(run.known, asked, options), options)
    others[CONTROL] = shuffled(heard, run.options.seed)
    results = _error_rates(run, said, heard, others)
    counts_N2 = word_error_rate(said, heard, normalizer=run.options.normalizer).counts_N2
    shown = [
        Scored(
            case.id,
            -float(errors / max(units, 1)),
            f"{errors:.0f} errors in {units:.0f} words",
            case.media,
            (("said", text), ("heard", given)),
        )
        for case, text, given, (errors, units) in zip(cases, said, heard, counts_N2, strict=True)
    ]
    return results, shown


def run_tts(run: Run) -> tuple[list[Result], list[Scored]]:
    """Speech made of texts, beside the real recordings and what the vocoder makes of these."""
    cases = speech_cases(run.rows, "")
    said = [case.answers[0] for case in cases]
    template = run.options.prompt
    prompts = {f"made {case.id}": (template.replace("{text}", case.answers[0]),) for case in cases}
    made: list[Audio] = run.make("speaking", prompts, "audio")
    real = [
        Audio((sound.waveform(), SAMPLE_RATE)) for case in cases if isinstance(sound := case.media[0], Audio)
    ]
    _note_long_sounds(run, real, does="makes at once", rest="the rest of the words cannot be said")
    to_sound = run.subject.vocoder if isinstance(run.subject, Maker) else griffin_lim
    ceiling = [Audio((vocoder_ceiling(sound.waveform(), to_sound), SAMPLE_RATE)) for sound in real]
    results = _beside_recordings(run, said, made, real, ceiling)
    distance = [mel_distance(a.waveform(), b.waveform()) for a, b in zip(made, real, strict=True)]
    verdicts = [(-value, f"mel distance {value:.2f}") for value in distance]
    lines = [[("text", text)] for text in said]
    recognizer = run.judges.recognizer
    if recognizer is None:
        run.notes.append(
            "no error rates of what is said: they need a recogniser that is not the model; give "
            "--recognizer FOLDER (Whisper in the form of CTranslate2)"
        )
    else:
        language = [row.get("language") for row in run.rows]

        def heard_in(what: str, sounds: Sequence[Audio]) -> list[str]:
            assert recognizer is not None
            # What is heard depends on the language too, of which the hash of the samples knows nothing.
            items = {
                f"{what}:{recognizer.fingerprint}:{spoken or ''} {case.id}": (sound, spoken)
                for case, sound, spoken in zip(cases, sounds, language, strict=True)
            }
            return run.judge(f"judging {what}", items, hear(recognizer))

        heard, of_real, of_ceiling = (
            heard_in("made", made),
            heard_in("real", real),
            heard_in("ceiling", ceiling),
        )
        others = {_REAL: of_real, _CEILING: of_ceiling, CONTROL: shuffled(heard, run.options.seed)}
        results = _error_rates(run, said, heard, others, by=recognizer.name) + results
        counts_N2 = word_error_rate(said, heard, normalizer=run.options.normalizer).counts_N2
        verdicts = [(-float(e / max(n, 1)), f"{e:.0f} errors in {n:.0f} words") for e, n in counts_N2]
        for each, ours, theirs in zip(lines, heard, of_real, strict=True):
            each += [("heard in it", ours), ("heard in the recording", theirs)]
    labels = ("made", "real recording", "the recording through the vocoder")
    shown = [
        Scored(case.id, score, verdict, sounds, tuple(each), labels)
        for case, (score, verdict), sounds, each in zip(
            cases, verdicts, zip(made, real, ceiling, strict=True), lines, strict=True
        )
    ]
    return results, shown


def _error_rates(
    run: Run, said: list[str], heard: list[str], others: dict[str, list[str]], *, by: str = ""
) -> list[Result]:
    """WER and CER of what was heard, and of what others heard; ``by`` names the ears that are not the model's."""
    normalizer = run.options.normalizer
    results = []
    rate: Callable[..., ErrorRate]
    for name, rate in (("WER", word_error_rate), ("CER", character_error_rate)):
        counts = {
            other: rate(said, texts, normalizer=normalizer).counts_N2
            for other, texts in {"": heard, **others}.items()
        }
        results.append(
            run.result(
                f"{name}, heard by {by}" if by else name,
                counts.pop(""),
                counts,
                normalizer=normalizer,
                statistic="ratio",
                unit="rate",
                higher_is_better=False,
            )
        )
    return results


def _beside_recordings(
    run: Run, said: list[str], made: list[Audio], real: list[Audio], ceiling: list[Audio]
) -> list[Result]:
    """How far the sound is from the recording of the same words, with nothing heard by anybody."""
    waves = [sound.waveform() for sound in real]

    def distances(sounds: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([mel_distance(a, b) for a, b in zip(sounds, waves, strict=True)])

    ours = distances([sound.waveform() for sound in made])
    rivals = {
        _CEILING: distances([sound.waveform() for sound in ceiling]),
        "silence": distances([np.zeros_like(wave) for wave in waves]),
        "control: the recording of another text": distances(shuffled(waves, run.options.seed)),
    }
    spectrum = run.result(
        "mel distance",
        ours,
        rivals,
        normalizer="absolute difference of log-mel a frame of the recording, from the start, not aligned; the shorter "
        "goes on in silence",
        unit="nepers",
        higher_is_better=False,
    )
    seconds = np.array([wave.size / SAMPLE_RATE for wave in waves])

    def off(lengths: Sequence[float] | np.ndarray) -> np.ndarray:
        return np.stack([np.abs(np.asarray(lengths) - seconds), seconds], axis=1)

    length = run.result(
        "length off",
        off([sound.waveform().size / SAMPLE_RATE for sound in made]),
        {f"{CHARS_PER_S:g} letters a second": off([len(text) / CHARS_PER_S for text in said])},
        normalizer="seconds too long or too short, of all seconds",
        statistic="ratio",
        unit="rate",
        higher_is_better=False,
    )
    return [spectrum, length]


def _note_long_sounds(
    run: Run,
    sounds: Sequence[Medium],
    does: str = "takes",
    rest: str = "it does not hear the rest, and the words there count as missed",
) -> None:
    """A sound that is cut is no failure of hearing or speaking: say how many are."""
    most = run.subject.max_sound_s
    if most is None:
        return
    durations = [sound.waveform().size / SAMPLE_RATE for sound in sounds if isinstance(sound, Audio)]
    num_long = sum(duration_s > most for duration_s in durations)
    if num_long:
        run.notes.append(
            f"{num_long} of {len(durations)} sounds last longer than the {most:.2f} s that the model {does}; {rest}"
        )
