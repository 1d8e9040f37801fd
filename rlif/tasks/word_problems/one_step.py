"""Problems of one step."""

from __future__ import annotations

from math import gcd

from rlif.tasks.word_problems.drawing import Draft, Draw, Template, draft
from rlif.tasks.word_problems.english import (
    BAKED,
    CLOTHES,
    COLORS,
    CONTAINERS,
    FLOWERS,
    FRUIT,
    KEEPSAKES,
    STATIONERY,
    a,
    count,
    dollars,
    part_of,
    plain_dollars,
)


def finds_more(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(KEEPSAKES)
    first, more = d.number((2, 12), (25, 180)), d.number((2, 8), (14, 95))
    aside = d.aside(
        f"{who.He} keeps them in {d.number((2, 3), (2, 6))} boxes.",
        f"{who.He} is {d.number((7, 9), (7, 14))} years old.",
    )
    return draft(
        f"{who.name} has {count(first, thing)}. {aside}Then {who.he} finds {more} more {thing.many}. "
        f"How many {thing.many} does {who.name} have now?",
        f"{who.name} now has {first} + {more} = {first + more} {thing.many}.",
        answer=first + more,
    )


def gives_away(d: Draw) -> Draft:
    (who, friend), thing = d.people(2), d.pick(KEEPSAKES)
    gift = d.number((2, 7), (14, 80))
    left = d.number((2, 12), (15, 120))
    aside = d.aside(
        f"{friend.name} is {d.number((7, 9), (7, 14))} years old.",
        f"They have been friends for {d.number((2, 3), (2, 6))} years.",
    )
    return draft(
        f"{who.name} has {count(gift + left, thing)}. {aside}{who.name} gives {gift} of the {thing.many} to "
        f"{friend.name}. How many {thing.many} does {who.name} have left?",
        f"{who.name} has {gift + left} - {gift} = {left} {thing.many} left.",
        answer=left,
    )


def equal_containers(d: Draw) -> Draft:
    container, fruit = d.pick(CONTAINERS), d.pick(FRUIT)
    containers, each = d.number((2, 6), (6, 24)), d.number((3, 10), (8, 30))
    aside = d.aside(f"A farmer brought them {d.number((20, 30), (20, 90))} miles to the market.")
    return draft(
        f"There are {count(containers, container)} with {count(each, fruit)} in each {container.one}. {aside}"
        f"How many {fruit.many} are there in all?",
        f"There are {containers} * {each} = {containers * each} {fruit.many}.",
        answer=containers * each,
    )


def shares_equally(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(BAKED)
    friends, each = d.number((2, 6), (4, 15)), d.number((2, 6), (6, 20))
    aside = d.aside(f"It took {who.him} {d.number((30, 50), (30, 90), step=5)} minutes to bake them.")
    return draft(
        f"{who.name} bakes {count(friends * each, thing)}. {aside}"
        f"{who.He} shares them equally among {friends} friends and keeps none. "
        f"How many {thing.many} does each friend get?",
        f"Each friend gets {friends * each} / {friends} = {each} {thing.many}.",
        answer=each,
    )


def how_many_more(d: Draw) -> Draft:
    (who, other), thing = d.people(2), d.pick(KEEPSAKES)
    fewer, difference = d.number((3, 12), (25, 140)), d.number((2, 8), (13, 85))
    aside = d.aside(f"They live {d.number((2, 5), (2, 9))} miles apart.")
    return draft(
        f"{who.name} has {count(fewer + difference, thing)} and {other.name} has {count(fewer, thing)}. {aside}"
        f"How many more {thing.many} does {who.name} have than {other.name}?",
        f"{who.name} has {fewer + difference} - {fewer} = {difference} {thing.many} more.",
        answer=difference,
    )


def price_of_several(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(STATIONERY)
    number, price = d.number((2, 6), (4, 16)), d.cents((1, 5), (1, 7))
    aside = d.aside(f"The store opens at {d.number((8, 9), (7, 10))} o'clock.")
    return draft(
        f"One {thing.one} costs {dollars(price)}. {aside}{who.name} buys {count(number, thing)}. "
        f"How many dollars do the {thing.many} cost?",
        f"The {thing.many} cost {number} * {dollars(price)} = {dollars(number * price)}.",
        answer=plain_dollars(number * price),
    )


def price_of_one(d: Draw) -> Draft:
    thing = d.pick(CLOTHES)
    number, price = d.number((2, 6), (3, 12)), d.cents((2, 9), (4, 30))
    aside = d.aside(f"The store is {d.number((3, 5), (3, 40))} years old.")
    return draft(
        f"A store sells {count(number, thing)} for {dollars(number * price)} in all. {aside}"
        f"Each {thing.one} has the same price. "
        f"How many dollars does one {thing.one} cost?",
        f"One {thing.one} costs {dollars(number * price)} / {number} = {dollars(price)}.",
        answer=plain_dollars(price),
    )


def change_from_a_bill(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(CLOTHES)
    bill = 100 * d.pick((50, 100) if d.large else (10, 20))
    price = d.cents((3, 9), (11, 48))
    aside = d.aside(f"{who.He} walked {d.number((3, 5), (3, 12))} blocks to the store.")
    return draft(
        f"{who.name} buys {a(thing.one)} for {dollars(price)} and pays with a {dollars(bill)} bill. {aside}"
        f"How many dollars of change does {who.he} get?",
        f"{who.name} gets {dollars(bill)} - {dollars(price)} = {dollars(bill - price)} of change.",
        answer=plain_dollars(bill - price),
    )


def distance_at_a_speed(d: Draw) -> Draft:
    who, vehicle = d.person(), d.pick(("train", "bus", "boat"))
    speed, hours = d.number((10, 50), (35, 65), step=5), d.number((2, 5), (3, 12))
    aside = d.aside(f"There are {d.number((20, 40), (40, 180))} passengers on board.")
    return draft(
        f"{who.name} is on a {vehicle} that travels at {speed} miles per hour. {aside}"
        f"How many miles does the {vehicle} travel in {hours} hours?",
        f"The {vehicle} travels {speed} * {hours} = {speed * hours} miles.",
        answer=speed * hours,
    )


_CONVERSIONS = (
    ("spends {} weeks at a summer camp", "days", 7, (2, 8), (9, 30)),
    ("is on a flight of {} hours", "minutes", 60, (2, 5), (6, 14)),
    ("needs a rope that is {} feet long", "inches", 12, (2, 8), (9, 40)),
    ("has lived in the same house for {} years", "months", 12, (2, 8), (9, 40)),
    ("plays a song that lasts {} minutes", "seconds", 60, (2, 5), (6, 14)),
    ("walks along a wall that is {} meters long", "centimeters", 100, (2, 9), (12, 60)),
)


def other_unit(d: Draw) -> Draft:
    who, (text, unit, factor, small, large) = d.person(), d.pick(_CONVERSIONS)
    number = d.number(small, large)
    return draft(
        f"{who.name} {text.format(number)}. How many {unit} is that?",
        f"That is {number} * {factor} = {number * factor} {unit}.",
        answer=number * factor,
    )


def part_of_a_number(d: Draw) -> Draft:
    who, thing, color, part = d.person(), d.pick(KEEPSAKES), d.pick(COLORS), d.part()
    total = part.denominator * d.number((2, 6), (7, 40))
    share = int(total * part)
    aside = d.aside(f"{who.He} bought them {d.number((2, 3), (2, 8))} years ago.")
    return draft(
        f"{who.name} has {count(total, thing)}. {aside}{part_of(part).capitalize()} of them are {color}. "
        f"How many of the {thing.many} are {color}?",
        f"There are {total} * {part} = {share} {color} {thing.many}.",
        answer=share,
    )


_OF_STUDENTS = ("walk to school", "play the piano", "speak Spanish", "wear glasses", "have a cat", "like to swim")


def percent_of_a_number(d: Draw) -> Draft:
    who, do, percent = d.person(), d.pick(_OF_STUDENTS), d.percent()
    students = d.number((20, 100), (120, 800), step=20)
    share = students * percent // 100
    aside = d.aside(f"The school has {d.number((10, 15), (12, 40))} classrooms.")
    return draft(
        f"{who.name}'s school has {students} students. {aside}Of these students, {percent}% {do}. "
        f"How many students {do}?",
        f"So {students} * {percent}/100 = {share} students {do}.",
        answer=share,
    )


def warmer(d: Draw) -> Draft:
    day = d.pick(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
    morning, rise = d.number((3, 15), (18, 49)), d.number((2, 9), (11, 24))
    aside = d.aside(f"The wind blew at {d.number((5, 9), (5, 25))} miles per hour.")
    return draft(
        f"On {day} morning the temperature was {morning} degrees. {aside}"
        f"By noon the temperature had risen by {rise} degrees. How many degrees was it then?",
        f"At noon it was {morning} + {rise} = {morning + rise} degrees.",
        answer=morning + rise,
    )


def older_brother(d: Draw) -> Draft:
    who = d.person()
    age, older = d.number((3, 12), (12, 38)), d.number((2, 7), (8, 17))
    aside = d.aside(f"{who.He} has {d.number((2, 3), (3, 9))} cousins.")
    return draft(
        f"{who.name} is {age} years old. {aside}{who.His} brother is {older} years older than {who.he} is. "
        f"How old is {who.his} brother?",
        f"{who.His} brother is {age} + {older} = {age + older} years old.",
        answer=age + older,
    )


def rows_of_seats(d: Draw) -> Draft:
    place = d.pick(("theater", "cinema", "concert hall", "circus tent", "lecture hall"))
    rows, seats = d.number((2, 6), (12, 30)), d.number((3, 10), (14, 36))
    aside = d.aside(f"A ticket costs {dollars(100 * d.number((5, 9), (8, 60)))}.")
    return draft(
        f"A {place} has {rows} rows with {seats} seats in each row. {aside}How many seats does the {place} have?",
        f"The {place} has {rows} * {seats} = {rows * seats} seats.",
        answer=rows * seats,
    )


def pages_left(d: Draw) -> Draft:
    who = d.person()
    read, left = d.number((3, 12), (35, 190)), d.number((4, 15), (25, 210))
    aside = d.aside(f"The book has {d.number((4, 6), (6, 20))} chapters.")
    return draft(
        f"{who.name} is reading a book of {read + left} pages. {aside}{who.He} has read {read} pages so far. "
        f"How many pages does {who.he} still have to read?",
        f"{who.name} still has to read {read + left} - {read} = {left} pages.",
        answer=left,
    )


def pieces_of_rope(d: Draw) -> Draft:
    thing, unit = d.pick(("rope", "ribbon", "wire", "pipe", "board")), d.pick(("feet", "inches", "meters"))
    pieces, length = d.number((2, 6), (4, 15)), d.number((2, 6), (6, 24))
    aside = d.aside(f"The {thing} cost {dollars(100 * d.number((5, 9), (5, 30)))}.")
    return draft(
        f"A {thing} that is {pieces * length} {unit} long is cut into {pieces} pieces of equal length. {aside}"
        f"How many {unit} long is each piece?",
        f"Each piece is {pieces * length} / {pieces} = {length} {unit} long.",
        answer=length,
    )


def pizza_left(d: Draw) -> Draft:
    who = d.person()
    slices, eaten = d.pick(
        [(n, k) for n in ((9, 10, 12, 16) if d.large else (3, 4, 5, 6, 8)) for k in range(1, n) if gcd(k, n) == 1]
    )
    aside = d.aside(f"It was baked for {d.number((10, 15), (11, 25))} minutes.")
    slices_eaten = "1 slice" if eaten == 1 else f"{eaten} slices"
    return draft(
        f"A pizza is cut into {slices} equal slices. {aside}{who.name} and {who.his} family eat {slices_eaten}. "
        "What fraction of the pizza is left?",
        f"What is left is 1 - {eaten}/{slices} = {slices - eaten}/{slices} of the pizza.",
        answer=f"{slices - eaten}/{slices}",
    )


def flowers_in_bunches(d: Draw) -> Draft:
    flower = d.pick(FLOWERS)
    bunches, each = d.number((2, 6), (4, 18)), d.number((3, 8), (5, 24))
    aside = d.aside(f"A bunch costs {dollars(100 * d.number((4, 9), (4, 30)))}.")
    return draft(
        f"A florist has {count(bunches * each, flower)} and puts {each} of them in each bunch. {aside}"
        "How many bunches does the florist make?",
        f"The florist makes {bunches * each} / {each} = {bunches} bunches.",
        answer=bunches,
    )


TRAIN: tuple[Template, ...] = (
    finds_more,
    gives_away,
    equal_containers,
    shares_equally,
    how_many_more,
    price_of_several,
    price_of_one,
    change_from_a_bill,
    distance_at_a_speed,
    other_unit,
    part_of_a_number,
    percent_of_a_number,
    warmer,
)
TEST: tuple[Template, ...] = (older_brother, rows_of_seats, pages_left, pieces_of_rope, pizza_left, flowers_in_bunches)
