"""Score forecasts by lead time and threshold, with counts and intervals."""

from convlstm.verification.decisions import cut_table as cut_table
from convlstm.verification.decisions import event_decisions as event_decisions
from convlstm.verification.decisions import probability_decisions as probability_decisions
from convlstm.verification.decisions import roc_table as roc_table
from convlstm.verification.decisions import value_table as value_table
from convlstm.verification.differences import difference_table as difference_table
from convlstm.verification.ensembles import ensemble_sums as ensemble_sums
from convlstm.verification.ensembles import ensemble_table as ensemble_table
from convlstm.verification.ensembles import member_share as member_share
from convlstm.verification.ensembles import rank_table as rank_table
from convlstm.verification.probabilities import reliability_table as reliability_table
from convlstm.verification.probabilities import score_probabilities as score_probabilities
from convlstm.verification.scorecard import case_sums as case_sums
from convlstm.verification.scorecard import fss_table as fss_table
from convlstm.verification.scorecard import score_forecasts as score_forecasts
from convlstm.verification.scorecard import skill_table as skill_table
from convlstm.verification.spectra import fine_scale_correlation as fine_scale_correlation
from convlstm.verification.spectra import spectrum_tables as spectrum_tables
