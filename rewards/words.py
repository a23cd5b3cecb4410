"""Words beside an answer that change or deny it; other words say nothing about it."""

import regex

FLAGS = regex.VERSION1 | regex.VERBOSE | regex.IGNORECASE


OWN = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}"  # scripts written without spaces


def any_of(words: str) -> str:
    """Match any of the words, which `|` parts, as whole words."""
    return rf"(?<![\p{{L}}--[{OWN}]])(?:{words})(?![\p{{L}}--[{OWN}]])"


SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
_SCALE = "|".join(SCALES)
_COUNTS = rf"""
    zero | one | two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
    | \w{{3,5}}teen | twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety | {_SCALE}
"""
_MINUS = r"minus|negative|moins|menos"
DENIED = r"""
    not | never | neither | nor | cannot | wrong | incorrect | false | except | than | nicht | kein
    | ne\s+pas | rul(?:e|es|ed|ing)\s+out | (?:anything|everything|all)\s+but
"""
DENYING = "[不非¬❌✗✘✖🚫]|错误|錯誤|排除|~~"
_LIMITS = r"at\s+(?:least|most) | up\s+to | between"
_FUNCTIONS = r"""
    (?:arc|a)?(?:sin|cos|tan)h? | cot | sec | csc | log | ln | lg | exp | sqrt | square | squared
    | cubed? | root | factorial | logarithm | inverse | reciprocal | opposite | absolute\s+value
    | power | mod(?:ulo)? | negat(?:ion|ed?|ing) | (?:doubl|tripl|halv|squar|cub|add|subtract)ing
"""
_SHARES = "half|third|quarter|double|twice|thrice|triple|quadruple|multiple|percent(?:age)?"
_BOUNDS = "but|under|over|below|above|beyond|almost|nearly|exceed(?:s|ing)?|within|until"
_BESIDE = r"plus|times|by|point|no|non|or|versus|vs|instead"
_PARTS = r"""
    half | halves | thirds | quarters? | fourths | fifths | sixths | sevenths | eighths | ninths
    | tenths | hundredths | thousandths | percent(?:age(?!\s+points))? | per\s*mille? | ppm | ppb
    | bps | basis\s+points?
"""
DONE = "squared|cubed|factorial|(?:doubl|halv|tripl|quadrupl|negat|invert|increas|decreas|reduc)ed"
_APPLIED = rf"""
    {DONE} | root | sqrt | power | pi | plus | {_MINUS} | divided | multiplied | or | below
    | versus | vs | instead\s+of | modulo
"""
_MULTIPLES = rf"""
    (?:{_SCALE})s? | dozens? | (?:ten|{_SCALE})ths? | millionen | milliarden? | milliards? | tausend
    | mille | la(?:kh|c)s? | crores? | mio | mrd | grand | kk | mi?ll?n? | bi?ll?n? | tri?ll?n?
    | [mbt]n
"""

DENIAL = rf"(?:{any_of(DENIED)} | n['’]t(?!\p{{L}}) | {DENYING})"
SIGN_WORDS = any_of(f"{_MINUS}|plus|positive")
FILLER = any_of(  # between a sign and its number
    "about|around|approximately|roughly|exactly|number|the|usd|eur|gbp|jpy|cny|inr|chf"
)
COPULA = regex.compile(any_of("is|are|was|be|equals?|gives|of|to|by|est|ist|es") + "$", FLAGS)
CHANGED_BEFORE = regex.compile(
    rf"""
    {DENIAL} | {any_of(_LIMITS)}
    | {any_of(f"{_FUNCTIONS}|{_SHARES}|{_BOUNDS}|{_MINUS}|{_BESIDE}")}
      (?:_\w+)? (?:\s+of)? (?:\s+the)? [\s({{\[]*$
    | {any_of(_COUNTS)} ,? (?:\s+(?:of|the|and|to))* [\s({{\[]*$
    """,
    FLAGS,
)
RAISED = any_of(DONE)
CHANGED_AFTER = regex.compile(
    rf"{DENIAL} | {any_of(f'{_PARTS}|{_APPLIED}')} | ^\W*+(?:\p{{L}}++\W++)?{any_of(_COUNTS)}",
    FLAGS,
)
SCALED = regex.compile(
    rf"[\s)}}\]-]*(?:{any_of(_MULTIPLES)} | 千(?![克米瓦卡]) | [十百万萬亿億兆만억倍折成打])", FLAGS
)
