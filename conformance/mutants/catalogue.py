"""The mutants: deliberately broken losses, each a fault that people make, and the clause that kills each.

    for mutant in mutants(file): mutant.name, mutant.spec, mutant.fault, mutant.clause

A mutant is a class of a file of this folder whose docstring is its fault in one sentence; most are the clean
implementation with one step overridden. `KILLED_BY` is the table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

KILLED_BY: dict[str, dict[str, str]] = {
    "maxima": {
        "NoMaximum": "V3",
        "MaximumOfTheBatch": "R5",
        "MaximumOfTheRowBefore": "V1",
        "MaximumOfTheFirstTile": "S2",
        "TilesMergedWithoutAGuard": "S2",
        "TilesNotRescaled": "V1",
        "ShiftedTwice": "V3",
        "ShiftForgotten": "V3",
    },
    "precision": {
        "LogOfOnePlus": "V1",
        "LogSumExpLessLogit": "V1",
        "LogOfClippedSoftmax": "V1",
        "LogOfSoftmax": "S5",
        "EpsilonInTheLog": "V2",
        "LossCapped": "V1",
        "ProbabilityLessOne": "V4",
        "SinglePrecision": "V1",
        "SumOfHalves": "A1",
        "MeanOfHalves": "A1",
        "RunningSum": "R4",
        "RunningWeights": "R4",
        "MeanOfMeans": "R4",
        "Bits": "V6",
    },
    "targets": {
        "NegativeTargetsWrap": "A4",
        "TargetsClamped": "A4",
        "TargetsModuloV": "A4",
        "OutsideIsIgnored": "A4",
        "MinusHundredIsAlwaysIgnored": "A4",
        "EndIsInside": "A4",
        "IgnoreIndexNarrowed": "A3",
        "TargetsWidenedBySign": "A3",
        "BytesAreAMask": "A3",
        "TargetsIn16Bits": "V1",
        "FlatIndexIn32Bits": "A7",
        "BoolTargets": "A3",
        "FloatsAreTruncated": "A3",
        "PositionNotNamed": "A4",
        "SoftTargetsNormalised": "V7",
        "SoftTargetsHardened": "V7",
        "ZeroTimesInfinity": "V7",
        "RowsSumToOne": "V7",
    },
    "walk": {
        "LastClassNotRead": "V1",
        "TailOfTheVocabularyDropped": "V1",
        "TailOfTheBatchDropped": "R5",
        "StridesIgnored": "A2",
        "StridesOfTheTargetsIgnored": "A2",
    },
    "reductions": {
        "IgnoredTokensDivide": "R2",
        "WeightsDoNotDivide": "R2",
        "ClassWeightsDoNotDivide": "R2",
        "ClassWeightsMasked": "R2",
        "DividesByOneAtLeast": "R2",
        "EmptyMeanIsNaN": "R3",
        "NothingCountedIsNaN": "R3",
        "MeanOverTheBatch": "R1",
        "SumByDefault": "R1",
        "PythonFloat": "A1",
        "HalfLoss": "A1",
        "PerplexityRaises": "V11",
        "PerplexityToTheBaseTwo": "V11",
    },
    "gradients": {
        "MeanNotDivided": "V5",
        "DividedByAllTokens": "R2",
        "Uphill": "V5",
        "GradOutputIgnored": "R6",
        "GradOutputIgnoredForNone": "R6",
        "GradOutputAlongTheWrongAxis": "R6",
        "WeightsNotInTheGradient": "V9",
        "ClassWeightsOnlyInTheGradient": "V9",
        "ZLossWithoutAGradient": "V9",
        "SmoothingNotInTheGradient": "V8",
        "ClippedTermsHaveAGradient": "V10",
        "GradientInSinglePrecision": "A1",
    },
    "options": {
        "TargetSmoothedTwice": "V8",
        "ShareOfAllUnderOthers": "V8",
        "ConventionsSwapped": "V8",
        "MinusInfinityShares": "V8",
        "MinusInfinityDivides": "V8",
        "OneClassHasNoOthers": "S6",
        "ClassWeightsOfTheTargetAlone": "V8",
        "SmoothedTermsNotWeighted": "V8",
        "ZLossNotWeighted": "V9",
        "ZLossOfTheLogSum": "V9",
        "ZLossOfIgnoredTokens": "S1",
    },
    "special_values": {
        "MaskedByMultiplication": "S1",
        "GradientMaskedByMultiplication": "S1",
        "PlusInfinityIsSure": "S4",
        "NaNIsSwallowed": "S4",
        "NothingIsUniform": "S4",
        "NaNSpreads": "S4",
        "MinusInfinityIsALargeNumber": "S3",
        "MinusInfinityIsDropped": "S3",
        "DifferencesPastTheDtype": "S5",
        "SquaredWithoutAReason": "S5",
        "NoClassesAreFine": "S6",
        "OneClassIsNaN": "S6",
    },
    "state": {
        "LogitsShiftedInPlace": "A2",
        "IgnoredTargetsOverwritten": "A2",
        "ClassWeightsNormalisedInPlace": "A2",
        "OutNotWritten": "A2",
        "OutOverlapsUnseen": "A2",
        "OutWrittenBeforeTheCheck": "A4",
        "ResultsCached": "R5",
        "OptionsStick": "R5",
        "OneGradientForAll": "A2",
        "ScratchSharedByThreads": "A8",
        "BackwardAccumulates": "A9",
        "BackwardOfNothing": "A9",
        "LogitsCopied": "A9",
        "FailureForgotten": "A9",
        "WholeArrayWidened": "A10",
        "GradientBesideOut": "A10",
    },
    "refusals": {
        "NoReasons": "A5",
        "Assertions": "A5",
        "AnyReduction": "A5",
        "ClassWeightsBroadcast": "A5",
        "TargetsReshaped": "A5",
        "SmoothingPastOne": "A5",
    },
    "frameworks": {
        "OffTheGraph": "D1",
        "NoSecondDerivative": "D1",
        "LooksAtEveryLogit": "A6",
        "LossOnTheHost": "A1",
        "MeanOverNothingIsZero": "D2",
        "BooleanIndexing": "A11",
    },
}
"""The clause that kills each mutant, by file."""


@dataclass(frozen=True)
class Mutant:
    """A broken loss."""

    name: str
    spec: str
    fault: str
    clause: str


def mutants(file: str) -> Iterator[Mutant]:
    """The mutants of a file, without importing it."""
    path = HERE / f"{file}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield Mutant(node.name, f"{path}:{node.name}", ast.get_docstring(node) or "", KILLED_BY[file][node.name])
