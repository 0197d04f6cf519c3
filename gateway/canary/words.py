"""Words of canary phrases: natural, and rare enough that nobody else puts eight of them in this order.

Eight places of 64 words each, two of the lists used twice: 48 bits. Within a place no two words are nearer than three
changes of a letter.
"""

OPENING = """ cinnabar ashen auburn azure bashful blithe brazen brindled buoyant cobalt copper crimson crooked dappled
dauntless drowsy ebony elusive emerald fabled fickle glacial gilded gracious hazel muffled indigo ivory jagged jovial
lavender limber luminous mahogany mellow mossy nimble ochre opaline patient peppered pewter quaint quicksilver restless
rusted saffron scarlet serene silken sombre speckled tawny thirsty topaz turquoise sepia velvet vermilion wandering
weathered whimsical willowy zealous
"""
CREATURE = """ albatross antelope armadillo avocet axolotl badger barnacle bittern bobolink buffalo capybara caracal
cassowary chamois chinchilla cormorant coyote cricket curlew dormouse dragonfly eland ermine falcon ferret flamingo
gazelle gibbon goldfinch grouse hedgehog heron mastodon jackdaw jellyfish kestrel kingfisher lapwing lemur limpet
lobster marmoset mongoose narwhal nightjar ocelot orangutan osprey pangolin partridge pelican pheasant porcupine quokka
raccoon salamander sandpiper stingray tapir terrapin toucan walrus wolverine zebra
"""
PLACE = """
abbey apiary armoury arcade bakery basilica belfry boathouse brewery causeway cellar chapel citadel cloister colonnade
cottage courtyard dockyard estuary fairground foundry fjord gallery gatehouse granary greenhouse grotto hamlet harbour
headland hillside infirmary island jetty kiosk laboratory lagoon ballroom library lighthouse meadow millpond monastery
observatory orchard orphanage parapet pavilion peninsula plateau quarry rampart refectory rookery sawmill shipyard
smithy stables tannery theatre turret viaduct vineyard workshop
"""
DEED = """ admired auctioned balanced borrowed buried carved catalogued chased serenaded collected counted cradled
crocheted delivered described disguised dismantled doodled embroidered engraved envied exchanged fashioned forgave
framed gathered guarded hammered haggled hoisted imagined inherited inspected waltzed knitted laundered lowered
measured mended misplaced narrated nudged bartered ordered painted photographed pickled polished protected puzzled
questioned rehearsed rescued salvaged sharpened sketched smuggled repaired swallowed tasted translated unfolded
varnished whittled
"""
LOOK = """ battered velveteen blunted bottomless braided brittle broken brocaded buckled ceramic chipped clockwork
concave corroded cracked creased cryptic tarnished dusty enamelled threadbare scalloped folded foreign forgotten
fragile glazed hollow humming imported inlaid invisible knotted lacquered leaden lopsided marbled melted miniature
misshapen mildewed nameless numbered oblong orphaned ornate whitewashed paper pleated gleaming portable quilted
rattling reversible rounded sealed seventh spiral sturdy sunken tasselled unlabelled upholstered wicker
"""
THING = """ abacus accordion almanac anvil astrolabe balalaika barometer bassoon bellows bobbin bonnet candlestick
carousel chandelier clarinet cutlass decanter dulcimer easel figurine flagon gauntlet gramophone gyroscope hammock
harpoon hourglass inkwell kaleidoscope kettle ladle lantern locket telegraph mandolin metronome monocle nutcracker
piccolo padlock parasol pendulum periscope pinwheel protractor quill rapier samovar saxophone sextant shuttlecock
spindle spyglass tambourine telescope thimble toboggan trellis trombone typewriter umbrella weathervane windlass
xylophone
"""

PLACES: tuple[tuple[str, ...], ...] = tuple(
    tuple(words.split()) for words in (OPENING, CREATURE, PLACE, DEED, LOOK, THING, OPENING, CREATURE)
)
