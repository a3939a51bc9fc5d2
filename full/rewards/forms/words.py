"""The words that a form knows: units, numbers, scales, functions, and words that make a unit something else."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_SCALE_WORDS = _words(
    """hundred thousand million billion trillion quadrillion dozen gross score half halve third quarter fourth fifth sixth
    seventh eighth ninth tenth eleventh twelfth twentieth hundredth thousandth millionth billionth percent pct k mil pairwise
    double triple twice thrice squared cubed factorial myriad lakh crore mega kilo milli micro nano"""
)
_FUNCTION_WORDS = _words(
    """and or but not no nor if iff when while unless except without than then else less fewer least most almost about
    approximately approx around nearly roughly remainder rem mod modulo am pm noon midnight from to through until till
    between of out as is was are were be does do has have had this thus these those his hers its us plus minus times over
    divided multiplied by root power base wrong false incorrect true yes maybe perhaps possibly always sometimes otherwise
    versus vs below under above negative positive bc ad either neither both any all some none nothing other others unknown
    undefined infinite infinitely many where with for at on so since because let given using via which what who up down
    before after ago near whereas inclusive exclusive"""
)
# "5 thirds" is no 5, and "5 or more" is not either: what is said with these words is no value with a unit.
NOT_UNITS = (
    frozenset(NUMBER_WORDS)
    | _words("thirty forty fifty sixty seventy eighty ninety")
    | _FUNCTION_WORDS
    | {form for word in _SCALE_WORDS for form in (word, word + "s", word[:-1] + "ves")}
)

# Singular units and irregular plurals; a regular plural ("marbles") is a unit without an entry here.
UNITS = _words(
    """m cm mm km dm nm um in inch inches ft foot feet yd yard mi mile meter metre centimeter centimetre millimeter millimetre
    kilometer kilometre decimeter g kg mg lb lbs oz ounce pound gram kilogram milligram ton tonne l ml liter litre milliliter
    millilitre gal gallon qt quart pt pint cup cc s sec second secs min minute mins h hr hrs hour day week month year yr yrs
    ms mph kph kmph kmh rpm fps knot acre hectare ha unit square cubic sq cu deg degree degrees rad radian dollar cent euro usd
    eur gbp rupee rs pence penny yen yuan peso buck n j w v hz kw kwh pa kpa mol cal kcal ohm volt watt newton joule kelvin
    celsius fahrenheit amp mhz khz ghz db bit byte kb mb gb people person men man women woman children child mice geese fish
    sheep dice piece point way student apple ticket integer number digit solution value element side edge face vertex vertices
    triangle rectangle circle marble ball book card coin game group hand item member meal multiple orange pair page team tile
    toy tree block box car cat dog egg factor divisor prime term step time turn total altogether only exactly each apiece more
    old per"""
)
# Words of a unit that need another one after them.
UNIT_ADJECTIVES = _words("square cubic sq cu per")
# Letters that are units where they cannot be variables.
LETTER_UNITS = frozenset("mgshLlVNJWK")

SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

# Short words in lower case that are no product of variables.
SHORT_WORDS = _words(
    """yes odd red one two six ten sum any all the her his him may jan feb mar apr jun jul aug sep oct nov dec mon tue wed thu
    fri sat sun amy bob joe sue tom jim tim ann ben dan eva ian kim lee leo liz max meg mia pam pat peg ray rob ron roy sam ted
    art cat dog day ace bad bag big box boy car cow cup cut end far few fit fun get hot ice job key kid law let lot low man map
    men mix new now old out own pay pen pie pot run sea set sit sky tax tea tie top toy try use war way win won wet eat ate no
    or if is it on in an as at be by do go he me my of so to up us we am hi pm"""
)

ALL_REALS = frozenset(
    {
        "all real numbers",
        "all reals",
        "real numbers",
        "the real numbers",
        "set of real numbers",
        "set of all real numbers",
        "the set of all real numbers",
    }
)
NO_SOLUTION = frozenset({"no solution", "no solutions", "there are no solutions", "empty set", "the empty set"})

TRIGONOMETRIC = _words("sin cos tan cot sec csc")
FUNCTIONS = TRIGONOMETRIC | _words("sinh cosh tanh arcsin arccos arctan arccot arcsec arccsc log ln exp")
GREEK = _words(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi
    varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell"""
)
# The parser knows these as constants.
GREEK_CONSTANTS = _words("gamma Gamma Pi ell")
BIG_OPERATORS = _words("sum prod")
MULTI_ARGUMENT = _words("max min gcd lcm")
