"""What invented events are made of: words, pairs of words that mean the same, and names. Holds no rules."""

from __future__ import annotations

__all__ = [
    "ABROAD", "BLAMED", "COVERS", "DEEDS", "DOINGS", "FATES", "GUILTY", "HARMS", "KINDS", "PASSERS", "PLACES",
    "PURPOSES", "SAYINGS", "SURNAMES", "THINGS", "WHENS",
]  # fmt: skip


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    found = [part.strip().split("|") for part in text.replace("\n", ",").split(",") if part.strip()]
    return tuple((pair[0].strip(), pair[-1].strip()) for pair in found)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(one for one, _ in _pairs(text))


_FIRST = _words("Ar Bel Cor Dra El Fen Gol Har Is Jor Kal Lor Mar Nev Or Pel Quin Ros Sar Tor Ul Ver Wen Yar Zel")
_LAST = _words("dan mora vice stad grad holm burg ville tar nia rask lund pora than mere dale quay wick")
PLACES = tuple(first + last for first in _FIRST for last in _LAST)
SURNAMES = _words(
    "Abel Brandt Corvin Dussel Eckert Faber Gruber Holtz Imre Jansk Keller Lorenz Meltz Novak Ostrow Pohl Quast Rieger "
    "Sorel Thamm Ulrik Vogt Wirth Yelin Zander"
)
ABROAD = ("Norvania", "the Southern League", "the Island Republic", "Estmark", "the Old Kingdom")
COVERS = _words("affair matter uprising inquiry winter case fires trial march week")

THINGS = _words(
    "anvils almanacs apples aprons axles balloons banners barges barrels baskets beacons beds bells bicycles boats "
    "books boots bottles bowls bricks bridges brooms buckets buttons cables candles cannons canvases carpets carts "
    "casks cellars chains chairs chimneys clocks coats coffins coins combs cradles cranes crowns curtains diaries "
    "doors drums engines feathers fences ferries fiddles flags flutes fountains funnels furnaces gardens gates "
    "gloves goats granaries hammers harps hats hedges hinges horses hymns idols jars kettles keys kilns kites "
    "ladders lamps lanterns lenses letters lilies locks looms mantles maps masks mattresses melons millstones mirrors "
    "mittens mules needles nets oars orchards organs ovens paddles pearls pencils pianos pigeons pillows pipes "
    "pistons plates ploughs pumps puppets quilts radios rafts ribbons ropes saddles sails scales scarves shovels "
    "sleds spades stamps statues stoves swords tapestries telegraphs tents thimbles tiles towers trains trumpets "
    "tunnels turbines umbrellas vases violins wagons wells wheels whistles windmills"
)
KINDS = _pairs("""
old|ancient, new|recent, red|crimson, yellow|golden, small|tiny, large|huge, holy|sacred, cheap|inexpensive,
broken|cracked, secret|clandestine, wooden|timber, stone|granite, famous|celebrated, royal|kingly, rusty|corroded,
silent|mute, foreign|alien, northern|arctic, wet|soaked, crooked|bent, smooth|polished, bright|gleaming, heavy|weighty,
striped|banded, round|circular, frozen|icy, painted|coloured, empty|hollow, sharp|pointed, quick|rapid
""")
BLAMED = _pairs("""
smugglers, acrobats, monks, students, deserters, watchmakers, gamblers, bandits, journalists, landlords, moneylenders,
hoarders, lodgers, emigrants, engineers, beekeepers, divers, poachers, quacks, pilgrims, conductors, colonels,
choristers, spies, actors, barbers, cooks, dentists, fishermen, hunters, jugglers, lawyers, magicians, nurses,
opticians, painters, rafters, sailors, tailors, widowers
""")
DEEDS = _pairs("""
poisoned|envenomed, burned|torched, flooded|drenched, sold|bartered, robbed|plundered, wrecked|ruined, buried|interred,
emptied|drained, sawed|cut, fouled|soiled, photographed|filmed, cursed|hexed, trampled|overran, counterfeited|copied,
exchanged|swapped, melted|liquefied, unscrewed|loosened, painted|daubed, smuggled|trafficked, mocked|ridiculed,
scattered|strewed, swallowed|gulped, kidnapped|abducted, auctioned|hawked
""")
PURPOSES = _pairs("""
win|gain, please|flatter, hide|veil, spoil|mar, free|liberate, avenge|requite, test|try, copy|imitate, feed|nourish,
raise|lift, stop|halt, buy|purchase, mend|repair, teach|instruct, bless|hallow, heat|warm, paint|colour, shame|disgrace,
replace|supplant, guard|protect
""")

PASSERS = _lines("""
the choir of the mill, an old ferryman, two sisters from the hills, a lame postman, the organist, my grandfather,
every second baker, the widow Anselm, some cadets, a stray dog, the last lamplighter, three brothers, the notary,
a girl with a flute, the veterinary surgeon, nobody, the head waiter, a balloonist, children, the town drummer
""")
DOINGS = _lines("""
carried, dreamt of, asked for, counted, lost, drew, would not part with, tripped over, sang about, dusted, waited for,
inherited, never liked, gave away, stood beside, repaired, wanted, laughed at, wrapped, remembered
""")
WHENS = _lines("""
on Sundays, before the rain, in a dry spring, since the war, at low tide, without thinking, for a whole week,
when the clock struck four, in broad daylight, with great care, as a joke, every autumn, behind the church,
on the way home, for lack of money, against all advice, in the second row, by candlelight, at Easter, until noon
""")
SAYINGS = _pairs("said|declared, explained|stated, wrote|noted, announced|proclaimed, insisted|maintained")

# What was true, in words that are blunt.
GUILTY = _pairs("""
garrison, grain office, secret police, mine owners, railway guards, colonial staff, cavalry, election board, militia,
prison doctors, canal company, arms factory, border command, settlement bureau, school inspectors, harbour syndicate,
party committee, air ministry, tax collectors, dam builders, palace guard, sugar barons, youth legion, naval staff
""")
HARMS = _pairs("""
murdered|killed, massacred|slaughtered, starved|killed by hunger, executed|shot dead, deported|expelled,
tortured|beat and abused, imprisoned|jailed, bombed|attacked, persecuted|terrorised by persecution of,
shot dead|executed
""")
FATES = _pairs("""
were killed|lay dead, starved|died of hunger, died in camps|perished in prisons, were tortured|suffered beatings,
died of famine|perished in the famine, were massacred|fell to the massacre, were executed|died by executions,
were deported|suffered deportation, died in prison|perished while jailed, were murdered|were victims of murder
""")
