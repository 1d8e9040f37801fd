"""Problems of two steps."""

from __future__ import annotations

from math import gcd

from rlif.tasks.word_problems.drawing import Draft, Draw, Template, draft
from rlif.tasks.word_problems.english import (
    BAKED,
    CLOTHES,
    COLORS,
    CONTAINERS,
    FRUIT,
    GOODS,
    KEEPSAKES,
    STATIONERY,
    a,
    count,
    dollars,
    part_of,
    plain_dollars,
)


def finds_and_gives(d: Draw) -> Draft:
    (who, friend), thing = d.people(2), d.pick(KEEPSAKES)
    first, found = d.number((3, 12), (25, 150)), d.number((2, 8), (12, 80))
    given = d.number((2, 4), (11, 24))
    total = first + found
    aside = d.aside(f"{friend.name} is {d.number((7, 9), (7, 14))} years old.")
    return draft(
        f"{who.name} has {count(first, thing)} and finds {found} more. {aside}"
        f"Then {who.he} gives {given} {thing.many} to {friend.name}. How many {thing.many} does {who.name} have left?",
        f"{who.name} has {first} + {found} = {total} {thing.many} before giving any away.",
        f"{who.name} has {total} - {given} = {total - given} {thing.many} left.",
        answer=total - given,
    )


def containers_and_loose_ones(d: Draw) -> Draft:
    who, container, fruit = d.person(), d.pick(CONTAINERS), d.pick(FRUIT)
    containers, each, loose = d.number((2, 5), (4, 15)), d.number((3, 8), (8, 30)), d.number((2, 7), (5, 40))
    packed = containers * each
    aside = d.aside(f"{who.He} paid {dollars(100 * d.number((4, 9), (12, 60)))} for them.")
    return draft(
        f"{who.name} has {count(containers, container)} with {count(each, fruit)} in each {container.one}, and "
        f"{loose} more {fruit.many} on the table. {aside}How many {fruit.many} does {who.name} have in all?",
        f"There are {containers} * {each} = {packed} {fruit.many} in the {container.many}.",
        f"In all there are {packed} + {loose} = {packed + loose} {fruit.many}.",
        answer=packed + loose,
    )


def several_and_one(d: Draw) -> Draft:
    who, (thing, other) = d.person(), d.picks(STATIONERY, 2)
    number, price, single = d.number((2, 5), (3, 12)), d.cents((1, 4), (1, 6)), d.cents((1, 6), (2, 9))
    aside = d.aside(f"{who.He} has {dollars(100 * d.number((70, 80), (100, 150)))} in {who.his} wallet.")
    return draft(
        f"{who.name} buys {count(number, thing)} for {dollars(price)} each and {a(other.one)} for {dollars(single)}. "
        f"{aside}How many dollars does {who.he} spend in all?",
        f"The {thing.many} cost {number} * {dollars(price)} = {dollars(number * price)}.",
        f"In all {who.name} spends {dollars(number * price)} + {dollars(single)} = {dollars(number * price + single)}.",
        answer=plain_dollars(number * price + single),
    )


def change_after_several(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(STATIONERY)
    number, price = d.number((2, 5), (3, 9)), d.cents((1, 3), (1, 5))
    cost = number * price
    bill = 100 * min(each for each in (20, 50) if 100 * each > cost)
    aside = d.aside(f"The store is {d.number((3, 5), (3, 12))} blocks away.")
    return draft(
        f"{who.name} buys {count(number, thing)} for {dollars(price)} each. {aside}"
        f"{who.He} pays with a {dollars(bill)} bill. How many dollars of change does {who.he} get?",
        f"The {thing.many} cost {number} * {dollars(price)} = {dollars(cost)}.",
        f"{who.name} gets {dollars(bill)} - {dollars(cost)} = {dollars(bill - cost)} of change.",
        answer=plain_dollars(bill - cost),
    )


def packs_what_is_left(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(BAKED)
    boxes, each, eaten = d.number((2, 5), (3, 12)), d.number((2, 6), (4, 16)), d.number((2, 6), (5, 23))
    left = boxes * each
    aside = d.aside(f"Baking them takes {d.number((30, 50), (35, 90), step=5)} minutes.")
    return draft(
        f"{who.name} bakes {count(left + eaten, thing)}. {aside}{who.His} family eats {eaten} of them, and "
        f"{who.he} packs the rest into {boxes} boxes with the same number in each box. "
        f"How many {thing.many} are in each box?",
        f"After the family has eaten, {left + eaten} - {eaten} = {left} {thing.many} are left.",
        f"Each box holds {left} / {boxes} = {each} {thing.many}.",
        answer=each,
    )


def times_as_many_together(d: Draw) -> Draft:
    (who, other), thing = d.people(2), d.pick(KEEPSAKES)
    number, times = d.number((3, 9), (14, 75)), d.number((2, 4), (3, 7))
    many = number * times
    aside = d.aside(f"They live {d.number((2, 5), (2, 12))} miles apart.")
    how = "twice" if times == 2 else f"{times} times"
    return draft(
        f"{who.name} has {count(number, thing)}. {other.name} has {how} as many. {aside}"
        f"How many {thing.many} do they have together?",
        f"{other.name} has {number} * {times} = {many} {thing.many}.",
        f"Together they have {number} + {many} = {number + many} {thing.many}.",
        answer=number + many,
    )


def earns_and_spends(d: Draw) -> Draft:
    who, thing = d.person(), d.pick(CLOTHES)
    hours, wage, spent = d.number((2, 6), (6, 38)), d.number((5, 9), (12, 27)), d.number((3, 8), (15, 60))
    earned = hours * wage
    aside = d.aside(f"{who.He} has worked there for {d.number((2, 3), (2, 9))} years.")
    return draft(
        f"{who.name} works {hours} hours for ${wage} per hour. {aside}Then {who.he} buys {a(thing.one)} for ${spent}. "
        f"How many dollars of {who.his} pay does {who.he} have left?",
        f"{who.name} earns {hours} * ${wage} = ${earned:,}.",
        f"{who.He} has ${earned:,} - ${spent} = ${earned - spent:,} left.",
        answer=earned - spent,
    )


def runs_twice_a_day(d: Draw) -> Draft:
    who = d.person()
    morning, evening, days = d.number((2, 5), (3, 7)), d.number((2, 4), (2, 5)), d.number((2, 5), (6, 30))
    daily = morning + evening
    aside = d.aside(f"{who.He} started running {d.number((2, 3), (2, 15))} years ago.")
    return draft(
        f"Each day {who.name} runs {morning} miles in the morning and {evening} miles in the evening. {aside}"
        f"How many miles does {who.he} run in {days} days?",
        f"Each day {who.name} runs {morning} + {evening} = {daily} miles.",
        f"In {days} days {who.he} runs {daily} * {days} = {daily * days} miles.",
        answer=daily * days,
    )


def sale_price(d: Draw) -> Draft:
    thing, percent = d.pick(GOODS), d.percent()
    price = d.number((20, 60), (40, 180), step=20)
    off = price * percent // 100
    aside = d.aside(f"The store is {d.number((3, 5), (3, 40))} years old.")
    return draft(
        f"{a(thing.one).capitalize()} usually costs ${price}. {aside}In a sale the price is reduced by {percent}%. "
        f"How many dollars does the {thing.one} cost in the sale?",
        f"The price is reduced by ${price} * {percent}/100 = ${off}.",
        f"In the sale the {thing.one} costs ${price} - ${off} = ${price - off}.",
        answer=price - off,
    )


def the_other_part(d: Draw) -> Draft:
    who, thing, (color, other), part = d.person(), d.pick(KEEPSAKES), d.picks(COLORS, 2), d.part()
    total = part.denominator * d.number((2, 6), (7, 40))
    share = int(total * part)
    aside = d.aside(f"{who.He} bought them {d.number((2, 3), (2, 8))} years ago.")
    return draft(
        f"{who.name} has {count(total, thing)}. {aside}{part_of(part).capitalize()} of them are {color}, and all the "
        f"others are {other}. How many of the {thing.many} are {other}?",
        f"There are {total} * {part} = {share} {color} {thing.many}.",
        f"So {total} - {share} = {total - share} {thing.many} are {other}.",
        answer=total - share,
    )


def ages_to_come(d: Draw) -> Draft:
    who, friend = d.people(2)
    younger, friend_age, years = d.number((2, 5), (3, 17)), d.number((4, 9), (11, 45)), d.number((2, 8), (9, 30))
    age = friend_age + younger
    aside = d.aside(f"They have known each other for {d.number((2, 3), (2, 9))} years.")
    return draft(
        f"{who.name} is {age} years old, and {friend.name} is {younger} years younger than {who.name}. {aside}"
        f"How old will {friend.name} be in {years} years?",
        f"{friend.name} is {age} - {younger} = {friend_age} years old now.",
        f"In {years} years {friend.he} will be {friend_age} + {years} = {friend_age + years} years old.",
        answer=friend_age + years,
    )


def fraction_of_a_color(d: Draw) -> Draft:
    thing, (color, other) = d.pick(KEEPSAKES), d.picks(COLORS, 2)
    one, two = d.pick([pair for pair in _SHARES if pair[0] + pair[1] > 12] if d.large else _SHARES[:12])
    total = one + two
    aside = d.aside(f"The bag weighs {d.number((5, 9), (41, 90))} grams.")
    return draft(
        f"A bag holds {one} {color} {thing.many} and {two} {other} {thing.many}, and nothing else. {aside}"
        f"What fraction of the {thing.many} are {color}?",
        f"The bag holds {one} + {two} = {total} {thing.many}.",
        f"The {color} part is {one} / {total} = {one}/{total} of them.",
        answer=f"{one}/{total}",
    )


# Pairs of numbers, the smaller totals first, whose shares are fractions in lowest terms.
_SHARES = sorted(
    ((one, two) for one in range(2, 13) for two in range(2, 13) if gcd(one, two) == 1),
    key=lambda pair: (sum(pair), pair),
)


def passengers(d: Draw) -> Draft:
    off, stay, on = d.number((2, 6), (5, 18)), d.number((3, 10), (9, 35)), d.number((2, 8), (4, 22))
    aside = d.aside(f"The bus has run for {d.number((20, 30), (20, 75))} minutes.")
    return draft(
        f"There are {off + stay} passengers on a bus. {aside}At a stop, {off} passengers get off and {on} others "
        "get on. How many passengers are on the bus now?",
        f"After {off} have got off, {off + stay} - {off} = {stay} passengers stay on the bus.",
        f"Now there are {stay} + {on} = {stay + on} passengers.",
        answer=stay + on,
    )


def fence(d: Draw) -> Draft:
    who = d.person()
    width = d.number((2, 7), (12, 35))
    length = width + d.number((1, 5), (3, 40))
    half = length + width
    aside = d.aside(f"The fence is {d.number((3, 4), (3, 6))} feet high.")
    return draft(
        f"{who.name} puts a fence all around a flower bed in the shape of a rectangle, which is {length} feet long and "
        f"{width} feet wide. {aside}How many feet of fence does {who.he} need?",
        f"One long and one short side are {length} + {width} = {half} feet.",
        f"All four sides are {half} * 2 = {half * 2} feet.",
        answer=half * 2,
    )


def fuel(d: Draw) -> Draft:
    who, vehicle = d.person(), d.pick(("car", "van", "truck"))
    liters, distance = d.number((3, 9), (4, 14)), d.number((100, 100), (50, 150), step=10)
    times = d.number((2, 6), (3, 12))
    aside = d.aside(f"Its tank holds {d.number((40, 50), (40, 90))} liters.")
    return draft(
        f"{who.name}'s {vehicle} uses {liters} liters of fuel for every {distance} miles. {aside}"
        f"How many liters does the {vehicle} use for {distance * times:,} miles?",
        f"The trip is {distance * times:,} / {distance} = {times} times as long.",
        f"It takes {times} * {liters} = {times * liters} liters.",
        answer=times * liters,
    )


def weeks_of_saving(d: Draw) -> Draft:
    who, thing = d.person(), "bicycle" if d.large else "board game"
    saved, weekly, weeks = d.number((4, 15), (25, 90)), d.number((3, 9), (6, 25)), d.number((2, 6), (7, 20))
    missing = weekly * weeks
    aside = d.aside(f"{who.He} is {d.number((8, 9), (8, 15))} years old.")
    return draft(
        f"{who.name} wants to buy a {thing} that costs ${saved + missing}. {aside}{who.He} already has ${saved} and "
        f"saves ${weekly} each week. In how many weeks will {who.he} have enough money?",
        f"{who.name} still needs ${saved + missing} - ${saved} = ${missing}.",
        f"That takes ${missing} / ${weekly} = {weeks} weeks.",
        answer=weeks,
    )


def meal_with_a_tip(d: Draw) -> Draft:
    who = d.person()
    percent = d.pick((5, 10, 15, 20, 25) if d.large else (10, 20))
    price = d.number((10, 50), (40, 160), step=20 if d.large else 10)
    tip = price * percent // 100
    aside = d.aside(f"There are {d.number((3, 4), (3, 4))} people at the table.")
    return draft(
        f"A meal costs ${price}. {aside}{who.name} pays for the meal and adds a tip of {percent}%. "
        f"How many dollars does {who.he} pay in all?",
        f"The tip is ${price} * {percent}/100 = ${tip}.",
        f"In all {who.name} pays ${price} + ${tip} = ${price + tip}.",
        answer=price + tip,
    )


TRAIN: tuple[Template, ...] = (
    finds_and_gives,
    containers_and_loose_ones,
    several_and_one,
    change_after_several,
    packs_what_is_left,
    times_as_many_together,
    earns_and_spends,
    runs_twice_a_day,
    sale_price,
    the_other_part,
    ages_to_come,
    fraction_of_a_color,
)
TEST: tuple[Template, ...] = (passengers, fence, fuel, weeks_of_saving, meal_with_a_tip)
