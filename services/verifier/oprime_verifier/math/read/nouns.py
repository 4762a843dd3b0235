"""What is counted: words behind a number that are no unit of measure and change nothing about the number.

Closed lists, because any other word may be part of the number or change what is said of it (halves, squared, less).
"""

from oprime_verifier.math.read.words import names

_MATHEMATICS = names(
    "angle answer arc arrangement assignment axis bit block board branch card case cell choice chord circle coefficient coin coloring "
    "colouring column combination component configuration constant coordinate corner cuboid curve cycle derangement diagonal "
    "diagram dice die digit dimension disk divisor domino dot edge element entry equation event expression face factor figure flip "
    "function game generator gon graph grid group hexagon horizontal inequality integer interior intersection interval item kind "
    "labeling letter line list lot map match matching matrix median member method mode monomial multiple natural node number object "
    "octagon octahedron operation option orbit ordering outcome pair palindrome parabola parallelogram part partition path "
    "pattern pentagon permutation piece place plane point polygon polyhedron polynomial position possibility prime prism pyramid "
    "quadrilateral quadruple question radius ray rectangle region rhombus ring roll rotation round row sample segment selection "
    "sequence set shape side solution space sphere star state step string subgroup subset sum surface symmetry system table "
    "term tetrahedron tile toss tournament trapezoid tree trial triangle triple tuple turn type value variable vector vertex vertical "
    "way word zeroes zeros"
)
_PEOPLE = names(
    "adult athlete author baby boy brother businessman cat chef child citizen clown coach cook cousin customer dad dancer daughter "
    "dentist doctor driver employee engineer expert family fan farmer father female firefighter fisherman friend girl girlfriend "
    "grandchild grandmother guard guest guy human husband infant inhabitant juror kid kindergartner king knight lady lawyer liar "
    "liver male man manager mathematician member mom mother musician neighbor neighbour nurse officer owner painter parent "
    "participant passenger patient people person pilot player police politician princess prisoner queen resident sailor scientist "
    "scout senior servant sibling singer sister soldier son spectator spouse student swimmer teacher team teammate teenager toddler "
    "tourist trainer traveler twin victim viewer visitor voter waiter wife winner witness woman worker"
)
_ANIMALS = names(
    "alpaca animal ant antelope bear beaver bee beetle bird boar buffalo bug butterfly calf camel canary carp caterpillar chick "
    "chicken cow crab cricket crocodile crow deer dinosaur dog dolphin donkey dove duck duckling eagle eel elephant elk fish flea "
    "flock fly fox frog giraffe goat goldfish goose gorilla hamster hawk hen herd hippo horse insect jellyfish kangaroo kitten koala "
    "lamb leopard lion lizard llama lobster mammal mice monkey mosquito moth mouse octopus owl ox oyster panda parrot peacock penguin "
    "pet pig pigeon pony pup puppy rabbit raccoon rat raven reptile rhino rooster seahorse seal shark sheep shrimp skunk sloth snail "
    "snake sparrow spider squirrel starfish swan tadpole tiger toad turkey turtle wasp whale wolf worm yak zebra"
)
_FOOD = names(
    "almond apple apricot avocado bacon bagel banana bean beer berry beverage biscuit blueberry bread breakfast brownie bun burger "
    "burrito butter cabbage cake candy cantaloupe caramel carrot cashew cereal cheese cherry chip chocolate clam coconut coffee coke "
    "cone cookie corn cracker cranberry crayfish croissant cucumber cupcake dessert dinner donut doughnut dumpling egg eggplant fig "
    "flour food fruit garlic grape grapefruit hamburger hotdog ice icecream jam jellybean juice kernel kiwi lemon lemonade lettuce "
    "lime loaf loaves lollipop lunch macaroon mango marshmallow meal meat meatball melon milk milkshake muffin mushroom nectarine nut "
    "oat olive omelet onion orange pancake papaya pasta pastry pea peach peanut pear pecan pepper pie pineapple pistachio pizza plum "
    "popcorn popsicle potato pretzel pumpkin radish raisin raspberry recipe rice roll salad salt sandwich sausage seed serving slice "
    "smoothie snack soda soup spinach steak strawberry sugar taco tangerine tea tomato treat vegetable waffle walnut water watermelon "
    "wine yam yogurt"
)
_THINGS = names(
    "account acorn ad advertisement airplane album apartment aquarium arrow article bag bale ball balloon band bandage banner bar "
    "barn barrel baseball basket basketball bat batch bathroom battery bead beaker bed bedroom bell belt bench bike bill bin blanket "
    "blouse boat bolt book bookcase booklet bookmark bookshelf boot bottle bouquet bow bowl box bracelet branch brick bridge brush "
    "bucket building bulb bunch bundle bus bush button buyer cabin cabinet cable cage calculator calendar call camera can candle "
    "canvas cap capsule car carnation carpet carriage cart carton cartridge case cassette cd cell chair chalk charger charm chart "
    "class classroom clip clock cloth clothes cloud club coat coconut code color comic commercial computer container contract couch "
    "counter country county course court crate crayon crop crown cupboard curtain cushion cut cylinder daisy deck desk diamond diaper "
    "dictionary disc dish doll dolphin door drawer drawing dress drink drop drum dvd ear ember emerald engine envelope episode eraser "
    "error essay exam eye fabric feather fence field file film finger fire flag flashlight floor flower flyer foot football footprint "
    "fork frame freezer furniture game garden gate gem gift glass glasses globe glove goal gown grain guitar gum hair hall hand "
    "handful hat headband headphone heart helmet highway hike hill hit hole homerun hook hoop hotel house hut image ink instrument "
    "invitation island jacket jar jean jersey jewel job journal jug key keyboard kit kite knife knives knot lamp lap laptop lawn "
    "layer leaf league leaves leg lesson level library light lily link load lock locker log loop machine magazine magnet mail mailbox "
    "marble mark marker mask mat mattress meeting message microwave mile mirror mistake model module monitor moon motorcycle mountain "
    "mouth movie mug nail napkin necklace neighborhood nest newspaper note notebook novel office order organ ornament outfit oven "
    "pack package packet packs pad page paint painting palm pan panel pant pants paper paperclip paragraph park part party paw "
    "payment pearl pebble peg pen pencil petal phone photo photograph piano picture pile pill pillow pin pipe pizza planet plant "
    "plate plot pocket poem pole pond pool portion portrait post postcard poster pot present prize problem product program project "
    "puzzle quilt quiz race rack racket radio raft rail rectangle red reel report request response restaurant ribbon ride rink river "
    "road robot rock rocket roof room rope rose route row rug rule ruler run sack sail sale salesman sandal scarf school scissors "
    "score screen screw seat section sentence session shadow share sheet shelf shell shelves ship shirt shoe shop shot shovel show "
    "sink sip sit situp skateboard skirt sock song spoon spot sprinkle stack stadium stage stair stall stamp station stem stick "
    "sticker stocking stone stool stop store story stream street stripe stroller stuff suit suitcase supply surface sweater swimsuit "
    "swing sword table tablet tank tap tape target task tax taxi teapot teeth tent test text theater thing thread ticket tie tin tip "
    "tire toe token tool tooth toothbrush toothpick torch towel tower town toy track tractor trailer train tray treasure trip trophy "
    "truck trumpet tshirt tub tube tulip tv umbrella uniform university vacation van vase vehicle video view village violin visit "
    "volleyball vote voucher wagon walk wall wallet watch wave weapon web weed week wheel whistle window wire word workbook worksheet "
    "workshop wreath wristband xylophone yacht yarn zipper zoo"
)
_EVENTS = names(
    "age area attempt average birthday bounce century championship chapter chore circuit clue concert cost credit crossing cure cycle "
    "debt defeat difference discount distance divorce dose draw drill event exercise expense experiment fault fee fight fine flight "
    "generation guess handshake height holiday hop inning jump kick kiss laugh lecture length loss marriage mass mention migration "
    "minute move night notch offer overtime pass penalty period phase pitch play practice profit promise pull punch push pushup "
    "quarterback rebound record repetition resolution revolution reward saving season semester sentence serve shift speed spin sprint "
    "stride strike strikeout stroke success swim switch tackle throw time touchdown tour transaction vibration volume voyage wage "
    "wager weight width win work yell"
)
_ADJECTIVES = names(
    "additional adjacent available average big black blue bright broken brown chocolate closed cold common complete complex composite "
    "concave congruent consecutive convex correct critical daily dark dead defective different distinct divisible dry east eligible "
    "empty english equal equilateral even extra fair female final finite free french fresh full gold golden good gray green grey "
    "happy healthy heavy high home hot identical incorrect indistinguishable integer integral invertible isosceles large left light "
    "little live local long lower male math missing monthly natural negative new noncongruent nonnegative nonzero north odd old open "
    "ordered original other overall paid perfect pink plain plastic positive possible proper purple random rational ready real red "
    "regular remaining right ripe rotten round scalene second similar simple single small solid south spare special standard straight "
    "strict successful sweet tall total unique unordered unused upper used valid vanilla warm weekly west white whole wide wild "
    "wooden working wrong yearly yellow young"
)
_FILLERS = names(
    "all altogether always and approximately are at both by combined currently does dollars each eventually every exactly for he her "
    "here his i in is it its just left made my now on only overall remaining she should so sold still that the their them there they "
    "today together tomorrow total was we were which will with would yesterday you your"
)
_IRREGULAR = names(
    "axes boxes businessmen calves children firemen fishermen geese grandchildren indices lives matrices men oxen polyhedra radii "
    "salesmen tetrahedra vertices wives wolves women squares cubes roots ones"
)
COUNTED = _MATHEMATICS | _PEOPLE | _ANIMALS | _FOOD | _THINGS | _EVENTS
DESCRIBING = _ADJECTIVES | _FILLERS


def is_describing(word: str) -> bool:
    """Whether the word only describes what is counted, or fills a sentence."""
    return word.lower() in DESCRIBING


def is_counted(word: str) -> bool:
    """Whether the word names what is counted."""
    lowered = word.lower()
    if lowered in COUNTED or lowered in _IRREGULAR:
        return True
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    return any(lowered.endswith(ending) and lowered.removesuffix(ending) + other in COUNTED for ending, other in endings)
